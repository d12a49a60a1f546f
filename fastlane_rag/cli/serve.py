"""`fastlane serve`: indexes over HTTP, with a page to look at."""

import ipaddress
import os
from pathlib import Path

import click

from fastlane_rag.cli.extras import require
from fastlane_rag.errors import InvalidInputError

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@click.command()
@click.argument("indexes", metavar="[NAME=]DIR...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--keys", type=click.Path(path_type=Path), envvar="FASTLANE_KEYS", help="File of API keys.")
@click.option("--no-keys", is_flag=True, help="Let everybody who reaches the server do everything.")
@click.option("--allowed-host", "hosts", multiple=True, help="Host name to answer to; any when keys are used.")
@click.option("--read-only", is_flag=True, help="Refuse writes.")
@click.option("--model", help="What the indexes were made with, where it is not the bundled model.")
@click.option("--device", help="Where models run; with cuda or cuda:1 the documents are searched there as well.")
@click.option("--threads", type=click.IntRange(1), help="Requests worked on at once, a process; the cores by default.")
@click.option("--max-body", default=16, show_default=True, type=click.IntRange(1), help="MiB of a request's body.")
@click.option("--max-hits", default=1000, show_default=True, type=click.IntRange(1), help="The largest k.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds of a search.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
def serve(
    indexes: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    keys: Path | None,
    no_keys: bool,
    hosts: tuple[str, ...],
    read_only: bool,
    model: str | None,
    device: str | None,
    threads: int | None,
    max_body: int,
    max_hits: int,
    timeout: float,
    log_format: str,
) -> None:
    """Serve indexes over HTTP: a REST interface (/v1/openapi.json), a page at /, /metrics and /health/ready.

    An index is called by the last part of DIR, or NAME. Without --keys the server listens on this machine alone.
    """
    # Before torch is loaded: requests are what runs in parallel.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    require("fastlane serve", ["serve"])
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.serve.keys import read_keys
    from fastlane_rag.serve.run import run
    from fastlane_rag.serve.settings import ServeSettings, named_directories

    check_reachable(host, keys, no_keys)
    named = named_directories(indexes)
    for directory in named.values():  # told here, before processes start that would all say the same
        FastLaneIndex.open(directory, device=device, read_only=True).close()
    settings = ServeSettings(
        indexes=named,
        model=model,
        device=device,
        keys=() if keys is None else read_keys(keys),
        hosts=hosts or (("*",) if keys is not None or no_keys else _LOCAL),
        read_only=read_only,
        threads=threads,
        most_body_bytes=max_body << 20,
        most_hits=max_hits,
        read_seconds=timeout,
        log_format=log_format,
    )
    run(settings, host, port, workers)


def check_reachable(host: str, keys: Path | None, no_keys: bool) -> None:
    """Refuse a server that others reach and that nobody said may be open to all.

    Raises:
        InvalidInputError: the address is no local one, and there are neither keys nor `--no-keys`.
    """
    if keys is None and not no_keys and not _is_local(host):
        raise InvalidInputError(
            f"--host {host} is reachable from other machines: give --keys FILE, or --no-keys to let everybody in"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
