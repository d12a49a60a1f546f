"""`fastlane index`: adds passages of a JSON Lines file to an index."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import Rate, console, plain_warnings, quiet_libraries
from fastlane_rag.data import add_passages, read_passages
from fastlane_rag.errors import DataError
from fastlane_rag.rendering.terminal import printable

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex

_SHOWN_ERRORS = 10


@click.command()
@click.argument("corpus", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The index.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Passages encoded at once.")
@click.option("--filter-key", "filter_keys", multiple=True, help="Metadata key to make fast to filter on.")
@click.option(
    "--codec", default="auto", show_default=True, help="How tokens are stored: auto, fp16, residual1, 2, 4 or 8."
)
@click.option(
    "--max-document-tokens",
    type=click.IntRange(min=1),
    help="Tokens encoded of a passage; the rest is cut, and told. All, or as the index was made, when left out.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out bad lines instead of stopping.")
def index(
    corpus: str,
    out: Path,
    model: str | None,
    batch_size: int | None,
    filter_keys: tuple[str, ...],
    codec: str,
    max_document_tokens: int | None,
    skip_bad: bool,
) -> None:
    """Index the passages of CORPUS, JSON Lines, gzip or plain; "-" reads standard input.

    Each line is an object with _id (or id) and text, optionally title; other keys become metadata.
    Where the index exists, passages are added, and those whose id it holds are replaced. Passages that are
    stored unchanged are not encoded again, so the same command goes on where an interrupted one stopped.
    The file is checked first: unless --skip-bad is given, a bad line means that nothing is indexed.
    """
    with _as_file(corpus) as path:
        total, bad = _check(path)
        if bad and not skip_bad:
            raise DataError(f"{bad} bad line(s), nothing was indexed; --skip-bad leaves them out")
        if not total:
            raise DataError(f"{corpus} holds no passage")
        quiet_libraries()
        with _open_or_create(out, model, filter_keys, codec, max_document_tokens) as target, plain_warnings():
            passages = read_passages(path, on_bad=lambda error: None)
            rate = Rate(target)
            try:
                done = add_passages(
                    target, passages, batch_size=batch_size, total=total, show_progress=sys.stderr.isatty()
                )
            except KeyboardInterrupt:
                click.echo(f"interrupted; {out} holds {len(target)}, the same command goes on from there", err=True)
                raise
            skipped = f", {bad} bad line(s) left out" if bad else ""
            console().print(
                f"{done.documents} passages read{skipped}, {done.added} of them new, {done.changed} changed, "
                f"{done.unchanged} stored already; {out} holds {len(target)}",
                markup=False,
                soft_wrap=True,
            )
            rate.report(done)


@contextmanager
def _as_file(corpus: str) -> Iterator[Path]:
    """The corpus as a file that can be read twice; a pipe, such as standard input, is copied to a temporary file."""
    if corpus != "-" and Path(corpus).is_file():
        yield Path(corpus)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard input" if corpus == "-" else Path(corpus).name)
        with path.open("wb") as file, click.open_file(corpus, "rb") as pipe:
            shutil.copyfileobj(pipe, file)
        yield path


def _check(path: Path) -> tuple[int, int]:
    """Count good and bad lines, printing the first bad ones."""
    bad = 0

    def report(error: DataError) -> None:
        nonlocal bad
        bad += 1
        if bad <= _SHOWN_ERRORS:
            click.echo(printable(str(error)), err=True)

    total = sum(1 for _ in read_passages(path, on_bad=report))
    if bad > _SHOWN_ERRORS:
        click.echo(f"... and {bad - _SHOWN_ERRORS} more bad lines", err=True)
    return total, bad


def _open_or_create(
    out: Path, model: str | None, filter_keys: tuple[str, ...], codec: str, max_document_tokens: int | None
) -> "FastLaneIndex":
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.errors import IndexNotFoundError

    try:
        opened = FastLaneIndex.open(out, model=model, max_document_tokens=max_document_tokens)
    except IndexNotFoundError:
        return FastLaneIndex.create(
            out, model=model, filter_keys=filter_keys, codec=codec, max_document_tokens=max_document_tokens
        )
    missing = set(filter_keys) - set(opened.stats().filter_keys)
    if missing:
        names = ", ".join(sorted(missing))
        click.echo(f"{out} was made without the filter key(s) {names}: filters on them work, only slower", err=True)
    stored = opened.stats().codec
    if codec not in ("auto", stored):
        click.echo(f"{out} stores tokens as {stored}, and goes on doing so: --codec is for a new index", err=True)
    return opened
