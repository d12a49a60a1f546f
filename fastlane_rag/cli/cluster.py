"""`fastlane cluster`: shards on the machines of a Ray cluster."""

from pathlib import Path
from typing import Any

import click

from fastlane_rag.cli.base import console, plain_warnings, quiet_libraries, search_options
from fastlane_rag.cli.extras import require
from fastlane_rag.cli.search import print_result
from fastlane_rag.progress import watched
from fastlane_rag.rendering.terminal import printable


@click.group()
def cluster() -> None:
    """Collections past one machine: shards on the machines of a Ray cluster.

    Start Ray first, with `ray start --head`, and `ray start --address=HEAD:6379` on every other machine. Without it,
    Ray starts on this machine alone, for as long as the command runs.
    """
    require("fastlane cluster", ["ray"])
    quiet_libraries()


@cluster.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--shards", type=click.IntRange(1), help="Shards of a new cluster; 1 more than there are adds one.")
@click.option("--replicas", default=0, show_default=True, type=click.IntRange(0), help="Readers of each shard, if new.")
@click.option("--cpus", default=1.0, show_default=True, type=click.FloatRange(0), help="For each actor, if new.")
@click.option("--local", help="Directory on the machines' own disks for the shards, if new.")
@click.option("--codec", default="auto", show_default=True, help="How tokens are stored, if new.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option("--http", type=click.Path(exists=True, path_type=Path), help="Config file of Ray Serve to deploy.")
def up(
    directory: Path,
    shards: int | None,
    replicas: int,
    cpus: float,
    local: str | None,
    codec: str,
    model: str | None,
    http: Path | None,
) -> None:
    """Start the shards of DIRECTORY, which all machines see, and make them where there are none."""
    from fastlane_rag.cluster import ClusterIndex
    from fastlane_rag.cluster.manifest import MANIFEST
    from fastlane_rag.errors import InvalidInputError

    if not (directory / MANIFEST).exists():
        made = ClusterIndex.create(
            directory, shards or 1, replicas=replicas, cpus=cpus, local=local, codec=codec, model=model
        )
    else:
        made = ClusterIndex.open(directory, model=model)
        there = made.manifest.shards
        if shards is not None and shards not in (there, there + 1):
            raise InvalidInputError(
                f"{directory} has {there} shards, not {shards}; one at a time is added: --shards {there + 1}"
            )
        if shards == there + 1 or made.manifest.growing:
            made.add_shard()
    with made:
        _show(made)
        if http is not None:
            from fastlane_rag.cluster.serving import deploy

            deploy(http)
            console().print(f"{http} is deployed; serve status shows it", markup=False)


@cluster.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.argument("files", nargs=-1, required=True)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that encode.")
@click.option("--cpus", default=1.0, show_default=True, type=click.FloatRange(0), help="For each worker.")
@click.option("--gpus", default=0.0, show_default=True, type=click.FloatRange(0), help="For each worker.")
@click.option("--id-key", default="_id", show_default=True, help="Column of Parquet files with the id.")
@click.option("--text-key", default="text", show_default=True, help="Column of Parquet files with the text.")
@click.option("--model", help="What the cluster was made with, where it is not the bundled model.")
def index(
    directory: Path,
    files: tuple[str, ...],
    workers: int,
    cpus: float,
    gpus: float,
    id_key: str,
    text_key: str,
    model: str | None,
) -> None:
    """Add FILES to the cluster in DIRECTORY: Parquet, JSON Lines, text or Markdown, on a disk, s3:// or gs://.

    The same command goes on where an interrupted one stopped.
    """
    from fastlane_rag.cluster import ClusterIndex
    from fastlane_rag.cluster.ingestion import ingest_files

    with ClusterIndex.open(directory, model=model) as opened, plain_warnings():
        done = ingest_files(
            opened,
            files,
            workers=workers,
            cpus=cpus,
            gpus=gpus,
            id_key=id_key,
            text_key=text_key,
            show_progress=watched(),
        )
        console().print(
            f"{done.documents} documents read, {done.added} of them new, {done.changed} changed, "
            f"{done.unchanged} stored already; {directory} holds {len(opened)}",
            markup=False,
            soft_wrap=True,
        )


@cluster.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.argument("query")
@click.option("-k", type=click.IntRange(min=0), default=5, show_default=True, help="Passages wanted.")
@search_options
@click.option("--partial", is_flag=True, help="Answer without shards that are away, and say so.")
@click.option("--model", help="What the cluster was made with, where it is not the bundled model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def search(
    directory: Path, query: str, k: int, partial: bool, model: str | None, as_json: bool, **options: Any
) -> None:
    """Print the passages of the cluster in DIRECTORY that answer QUERY best."""
    from fastlane_rag.cluster import ClusterIndex

    with ClusterIndex.open(directory, model=model, partial=partial) as opened, plain_warnings():
        result = opened.search_detailed(query, k, **options)
    print_result(query, result, as_json=as_json)


@cluster.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def status(directory: Path) -> None:
    """Print where the shards of DIRECTORY run, and what they hold."""
    from fastlane_rag.cluster import ClusterIndex

    with ClusterIndex.open(directory, partial=True) as opened:
        _show(opened)


@cluster.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def down(directory: Path) -> None:
    """End the actors of the cluster in DIRECTORY; what is stored stays."""
    from fastlane_rag.cluster import ClusterIndex

    ClusterIndex.open(directory, partial=True).stop()


@cluster.command()
@click.option("--passages", default=1_000_000_000, show_default=True, type=click.IntRange(1), help="To plan for.")
def plan(passages: int) -> None:
    """Print what a collection needs: machines, bytes, milliseconds and cost, with every assumption."""
    from fastlane_rag.cluster.planning import Assumptions, sheet

    click.echo(sheet(passages, Assumptions()))


def _show(opened: Any) -> None:
    from rich.table import Table

    table = Table("shard", "documents", "tokens", "bytes", "actors (the writer first)")
    stats = opened.shard_stats()
    for shard, places in opened.status().items():
        one = stats.get(shard)
        figures = (f"{one.documents:,}", f"{one.tokens:,}", f"{one.bytes:,}") if one else ("away", "", "")
        table.add_row(str(shard), *figures, printable(", ".join(place[:60] for place in places)))
    out = console(least_width=120)
    out.print(table)
    if opened.manifest.growing:
        out.print(f"shard {opened.manifest.shards} is being added: fastlane cluster up --shards goes on with it")
