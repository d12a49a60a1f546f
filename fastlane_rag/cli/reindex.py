"""`fastlane reindex`: an index encoded again by another model."""

from pathlib import Path

import click

from fastlane_rag.cli.base import console, quiet_libraries
from fastlane_rag.progress import watched


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Passages encoded at once.")
def reindex(index: Path, model: str | None, batch_size: int | None) -> None:
    """Encode the documents of INDEX again with another model, keeping ids, texts and metadata.

    Searches go on with the old embeddings until all of the new ones are there. The same command goes on where an
    interrupted one stopped. It needs room for both on the disk.
    """
    from fastlane_rag.index.reindexing import reindex as encode_again

    quiet_libraries()
    done = encode_again(index, model=model, batch_size=batch_size, show_progress=watched())
    if now := done.added + done.changed:
        before = f", {done.unchanged} by an interrupted run before" if done.unchanged else ""
        told = f"{done.documents} documents of {index} are encoded anew: {now} now{before}"
    else:
        told = f"{index} is of this model already, and stays as it is"
    console().print(told, markup=False, soft_wrap=True)
