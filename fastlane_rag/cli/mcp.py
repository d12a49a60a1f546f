"""`fastlane mcp`: indexes as tools of an agent."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import quiet_libraries
from fastlane_rag.cli.extras import require
from fastlane_rag.cli.serve import check_reachable

if TYPE_CHECKING:
    from fastlane_rag.index.protocol import AnyIndex


@click.command()
@click.argument("indexes", metavar="[NAME=]DIR|URL...", nargs=-1, required=True)
@click.option("--http", "over_http", is_flag=True, help="Streamable HTTP at /mcp instead of standard input and output.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at, with --http.")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="Port, with --http.")
@click.option("--keys", type=click.Path(path_type=Path), envvar="FASTLANE_KEYS", help="File of API keys, with --http.")
@click.option("--no-keys", is_flag=True, help="Let everybody who reaches the server search.")
@click.option("--model", help="What the indexes were made with, where it is not the bundled model.")
def mcp(
    indexes: tuple[str, ...], over_http: bool, host: str, port: int, keys: Path | None, no_keys: bool, model: str | None
) -> None:
    """Give agents the tools search, get and list over indexes, by the Model Context Protocol.

    An index is a directory, or the address of one that `fastlane serve` serves. Nothing is written.
    """
    require("fastlane mcp", ["mcp"])
    from fastlane_rag.serve.keys import read_keys
    from fastlane_rag.serve.mcp import KeyGate, create_server

    if over_http:
        check_reachable(host, keys, no_keys)
    quiet_libraries()
    with ExitStack() as stack:
        server = create_server(_opened(indexes, model, stack))
        if not over_http:
            server.run()
            return
        import uvicorn

        app = server.streamable_http_app(host=host, stateless_http=True)
        uvicorn.run(KeyGate(app, () if keys is None else read_keys(keys)), host=host, port=port)


def _opened(given: tuple[str, ...], model: str | None, stack: ExitStack) -> "dict[str, AnyIndex]":
    from fastlane_rag import FastLaneIndex, RemoteIndex
    from fastlane_rag.errors import InvalidInputError
    from fastlane_rag.serve.settings import named_directories

    remote = [one for one in given if "://" in one]
    found: dict[str, AnyIndex] = {}
    for name, directory in named_directories(one for one in given if one not in remote).items():
        found[name] = stack.enter_context(FastLaneIndex.open(directory, model=model, read_only=True))
    for address in remote:
        name, _, url = address.partition("=") if "=" in address.partition("://")[0] else ("", "", address)
        if (called := name or "remote") in found:
            raise InvalidInputError(f"two indexes are called {called!r}; write NAME=DIR or NAME=URL for one")
        found[called] = stack.enter_context(RemoteIndex(url, name=name or None))
    return found
