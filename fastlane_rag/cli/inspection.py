"""`fastlane verify`, `stats` and `export`, which need no model."""

import gzip
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.cli.base import console, show_json
from fastlane_rag.rendering.terminal import json_text, printable

if TYPE_CHECKING:
    from fastlane_rag.types import Document, IndexStats

_DIRECTORY = click.Path(path_type=Path)


@click.command()
@click.argument("index", type=_DIRECTORY)
@click.pass_context
def verify(context: click.Context, index: Path) -> None:
    """Read every byte of INDEX and print what is wrong, a line a problem; exit code 1 when something is."""
    from fastlane_rag.upkeep.verify import verify as problems_of

    found = problems_of(index)
    for problem in found:
        click.echo(printable(" ".join(problem.split())))
    if found:
        click.echo(f"{len(found)} problem(s) found; `fastlane export` saves what can still be read", err=True)
        context.exit(1)
    click.echo(f"{index} is sound")


@click.command()
@click.argument("index", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def stats(index: Path, as_json: bool) -> None:
    """Print what INDEX holds and takes."""
    from fastlane_rag import FastLaneIndex

    with FastLaneIndex.open(index, read_only=True) as opened:
        found = opened.stats()
    if as_json:
        record = asdict(found) | {"path": str(found.path), "bytes_per_document": found.bytes_per_document}
        show_json(record)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in _rows(found):
        table.add_row(Text(name, "dim"), Text(printable(value)))
    console(unwrapped=True).print(table)


def _rows(found: "IndexStats") -> list[tuple[str, str]]:
    return [
        ("documents", f"{found.documents:,}"),
        ("tokens", f"{found.tokens:,} of {found.dim} dimensions"),
        ("tokens encoded of a document", f"{found.max_document_tokens:,}" if found.max_document_tokens else "all"),
        ("tokens kept of a document", "all" if found.document_budget is None else f"{found.document_budget:.3g}"),
        ("bytes", f"{found.bytes:,}"),
        ("bytes per document", f"{found.bytes_per_document:,.0f}"),
        ("segments", f"{found.segments:,}, and {found.pending:,} documents waiting for one"),
        ("dead rows", f"{found.dead:,}"),
        ("merging and training", found.upkeep),
        ("codec", found.codec),
        ("model", f"{found.model} ({found.fingerprint[:12]})"),
        ("filter keys", ", ".join(found.filter_keys) or "-"),
        ("commits", f"{found.commits:,}"),
    ]


@click.command()
@click.argument("index", type=_DIRECTORY)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write, gzip if it ends in .gz.")
def export(index: Path, out: Path | None) -> None:
    """Write the documents of INDEX as JSON Lines: _id, text and metadata, as `fastlane index` reads them.

    Works where segments are lost or damaged, because texts and metadata are not in them.
    """
    from fastlane_rag.upkeep.verify import export as documents_of

    if out is None:
        with click.open_file("-", "wb") as stdout:
            _write(documents_of(index), stdout.write)
        return
    with _complete_or_absent(out) as file:
        count = _write(documents_of(index), file.write)
    click.echo(f"{count} documents in {out}", err=True)


def _write(documents: "Iterable[Document]", write: Callable[[bytes], Any]) -> int:
    count = 0
    for document in documents:
        record = {"_id": document.id, "text": document.text, "metadata": document.metadata}
        write(json_text(record).encode() + b"\n")
        count += 1
    return count


@contextmanager
def _complete_or_absent(out: Path) -> Iterator[BufferedIOBase]:
    """A file that gets its name only when it is complete; a link stays one. A device or a pipe is written as it is."""
    if out.exists() and not out.is_file():
        with out.open("wb") as device:
            yield device
        return
    out = out.resolve()
    part = out.with_name(f".fastlane-{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as plain, gzip.open(plain, "wb") if out.suffix == ".gz" else plain as file:
            if out.exists():
                shutil.copymode(out, part)
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
