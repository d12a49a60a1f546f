"""`fastlane index`: adds passages of a JSON Lines file, or of the files in a folder, to an index."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import console
from fastlane_rag.cli.filling import Rate, counts, filling
from fastlane_rag.cli.folder import index_folder
from fastlane_rag.data import add_passages, read_passages
from fastlane_rag.data.files import KINDS
from fastlane_rag.errors import DataError
from fastlane_rag.progress import watched
from fastlane_rag.rendering.terminal import printable

if TYPE_CHECKING:
    from fastlane_rag.index.options import IndexKeywords

_SHOWN_ERRORS = 10


@click.command()
@click.argument("corpus", type=click.Path(exists=True, allow_dash=True))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The index.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option("--device", help="Where the model runs: cuda, cuda:1, mps or cpu; chosen when left out.")
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
@click.option("--skip-bad", is_flag=True, help="Leave out bad lines and files instead of stopping.")
def index(
    corpus: str,
    out: Path,
    model: str | None,
    device: str | None,
    batch_size: int | None,
    filter_keys: tuple[str, ...],
    codec: str,
    max_document_tokens: int | None,
    skip_bad: bool,
) -> None:
    """Index the passages of CORPUS: JSON Lines, or a folder of text, Markdown, HTML and PDF files, or one of these.

    In JSON Lines, gzip or plain ("-" reads standard input), each line is an object with _id (or id) and text,
    optionally title; other keys become metadata. Where the index exists, passages are added, and those whose id it
    holds are replaced.

    Other files are cut into passages that fit the model, with the file's path as source and the page in their
    metadata. Run again, the index follows the folder: new and changed files are added, and
    passages of removed ones go out.

    Passages that are stored unchanged are not encoded again, so the same command goes on where an interrupted one
    stopped. Everything is read first: unless --skip-bad is given, a bad line or file means that nothing is indexed.
    """
    from fastlane_rag.index.options import IndexOptions

    made: IndexKeywords = {
        "model": model,
        "device": device,
        "codec": codec,
        "filter_keys": filter_keys,
        "max_document_tokens": max_document_tokens,
    }
    IndexOptions.of(**made)  # what is wrong in them is told before anything is read
    if Path(corpus).is_dir() or Path(corpus).suffix.lower() in KINDS:
        index_folder(Path(corpus), out, made, batch_size=batch_size, skip_bad=skip_bad)
        return
    with _as_file(corpus) as path:
        total, bad = _check(path)
        if bad and not skip_bad:
            way_out = "--skip-bad leaves them out" if total else f"JSON Lines are read, and {', '.join(KINDS)}"
            raise DataError(f"{bad} bad line(s), nothing was indexed; {way_out}")
        if not total:
            raise DataError(f"{corpus} holds no passage")
        with filling(out, **made) as target:
            rate = Rate(target)
            done = add_passages(
                target,
                read_passages(path, on_bad=lambda error: None),
                batch_size=batch_size,
                total=total,
                show_progress=watched(),
            )
            skipped = f", {bad} bad line(s) left out" if bad else ""
            console().print(
                f"{done.documents} passages read{skipped}, {counts(done)}; {out} holds {len(target)}",
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
