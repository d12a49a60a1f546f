"""`fastlane index`: passages from a JSON Lines file into an index."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import console, progress, quiet_libraries
from fastlane_rag.data import add_passages, read_passages
from fastlane_rag.errors import DataError

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex

_SHOWN_ERRORS = 10


@click.command()
@click.argument("corpus", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The index.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Passages encoded at once.")
@click.option("--filter-key", "filter_keys", multiple=True, help="Metadata key to make fast to filter on.")
@click.option("--skip-bad", is_flag=True, help="Leave out bad lines instead of stopping.")
def index(
    corpus: str,
    out: Path,
    model: str | None,
    batch_size: int | None,
    filter_keys: tuple[str, ...],
    skip_bad: bool,
) -> None:
    """Index the passages of CORPUS, JSON Lines, gzip or plain; "-" reads standard input.

    Each line is an object with _id (or id) and text, optionally title; other keys become metadata.
    Where the index exists, passages are added, and those whose id it holds are replaced.
    The file is checked first: unless --skip-bad is given, a bad line means that nothing is indexed.
    """
    with _as_file(corpus) as path:
        total, bad = _check(path)
        if bad and not skip_bad:
            raise DataError(f"{bad} bad line(s), nothing was indexed; --skip-bad leaves them out")
        if not total:
            raise DataError(f"{corpus} holds no passage")
        quiet_libraries()
        with _open_or_create(out, model, filter_keys) as target:
            before = len(target)
            with progress("Indexing") as bar:
                passages = read_passages(path, on_bad=lambda error: None)
                add_passages(target, bar.track(passages, total=total), batch_size=batch_size)
            skipped = f", {bad} bad line(s) left out" if bad else ""
            console().print(
                f"{total} passages read{skipped}, {len(target) - before} of them new; {out} holds {len(target)}",
                markup=False,
            )


@contextmanager
def _as_file(corpus: str) -> Iterator[Path]:
    """The corpus as a file that can be read twice; standard input is kept in a temporary one."""
    if corpus != "-":
        yield Path(corpus)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _check(path: Path) -> tuple[int, int]:
    """Count good and bad lines, printing the first bad ones."""
    errors: list[DataError] = []
    total = sum(1 for _ in read_passages(path, on_bad=errors.append))
    for error in errors[:_SHOWN_ERRORS]:
        click.echo(str(error), err=True)
    if len(errors) > _SHOWN_ERRORS:
        click.echo(f"... and {len(errors) - _SHOWN_ERRORS} more bad lines", err=True)
    return total, len(errors)


def _open_or_create(out: Path, model: str | None, filter_keys: tuple[str, ...]) -> "FastLaneIndex":
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.errors import IndexNotFoundError

    try:
        return FastLaneIndex.open(out, model=model)
    except IndexNotFoundError:
        return FastLaneIndex.create(out, model=model, filter_keys=filter_keys)
