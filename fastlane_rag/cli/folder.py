"""`fastlane index FOLDER`: the text, Markdown, HTML and PDF files of a folder, mirrored in an index."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import console, progress
from fastlane_rag.cli.extras import require
from fastlane_rag.cli.filling import Rate, counts, filling
from fastlane_rag.data.files import KINDS, Found, Splitter, found_files
from fastlane_rag.data.mirror import mirror, read_folder, text_splitter
from fastlane_rag.errors import DataError
from fastlane_rag.progress import watched
from fastlane_rag.rendering.terminal import printable

if TYPE_CHECKING:
    from fastlane_rag import FastLaneModel
    from fastlane_rag.index.options import IndexKeywords

_SHOWN = 10


def index_folder(
    corpus: Path, out: Path, options: "IndexKeywords", *, batch_size: int | None = None, skip_bad: bool = False
) -> None:
    """Make the index at `out` hold the passages of a folder, or of one file, as it is now.

    Raises:
        MissingExtraError: the libraries that read files are not installed.
        DataError: the folder holds no file that can be read, or, unless `skip_bad`, one that cannot.
    """
    require("fastlane index of a folder", ["files"])
    whole = corpus.is_dir()
    folder = corpus.resolve() if whole else corpus.parent.resolve()
    # A link to a file is called by its own name, as in its folder: that of what it leads to may have no suffix.
    listed = found_files(folder, out.resolve()) if whole else Found([folder / corpus.name], Counter(), {})
    if not listed.files and not listed.closed:
        raise DataError(f"{corpus} holds no file that can be read; these can: {', '.join(KINDS)}")
    with progress("Reading") as bar:
        found = read_folder(folder, bar.track(listed.files), whole=whole, closed=listed.closed)
    _tell([str(error) for error in found.errors])
    _tell([f"{file} holds no text" for file, pages in found.pages.items() if not pages])
    if found.errors and not skip_bad:
        bad = " and ".join(
            f"{len(some)} {kind}(s)" for kind, some in (("folder", found.closed), ("file", found.unread)) if some
        )
        raise DataError(f"{bad} cannot be read, nothing was indexed; --skip-bad leaves them out")
    with filling(out, **options) as target:
        rate = Rate(target)
        done, deleted = mirror(target, found, _splitter(target.model), batch_size=batch_size, show_progress=watched())
        left = f", {len(found.errors)} left out" if found.errors else ""
        gone = f", {deleted} gone" if deleted else ""
        console().print(
            f"{len(found.pages)} file(s) read{left}: {done.documents} passages, {counts(done)}{gone}; {out} holds "
            f"{len(target)}",
            markup=False,
            soft_wrap=True,
        )
        if listed.others:
            click.echo(f"files of other kinds passed over: {_listed(listed.others)}", err=True)
        rate.report(done)


def _splitter(model: "FastLaneModel") -> Splitter:
    """Cuts texts into passages of the model's windows, which is what finds most (docs/tuning.md)."""
    from fastlane_rag.model.spans import untruncated
    from fastlane_rag.model.windows import OVERLAP, SHARE, token_count

    tokens = max(1, model.max_document_length // SHARE - token_count(model.encoder, "", "document"))
    return text_splitter(untruncated(model.encoder.tokenizer), tokens, tokens // OVERLAP)


def _tell(lines: list[str]) -> None:
    """Print the first lines on stderr, and how many more there are."""
    for line in lines[:_SHOWN]:
        click.echo(printable(line), err=True)
    if len(lines) > _SHOWN:
        click.echo(f"... and {len(lines) - _SHOWN} more", err=True)


def _listed(others: Mapping[str, int]) -> str:
    return printable(", ".join(f"{count} {kind}" for kind, count in sorted(others.items(), key=lambda one: -one[1])))
