"""Text of the files people have: plain text, Markdown, HTML and PDF, read and cut into passages.

The libraries come with the extra `files`: pypdf, markdownify (HTML to Markdown) and semantic-text-splitter, which cuts
at headings, paragraphs and sentences.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastlane_rag.errors import DataError
from fastlane_rag.types import Document

__all__ = ["KINDS", "Found", "Page", "Splitter", "decoded", "found_files", "passages_of", "read_file"]

# Files of text are read whole; a larger one is no document.
_MOST_BYTES = 256 << 20

Splitter = Callable[[str, bool], list[str]]
"""Cuts a text into passages; True where it is Markdown."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is below a folder.

    Attributes:
        files: those of a kind that can be read here, in the order of their names.
        others: how many others there are, by suffix.
        closed: the folders that cannot be looked into, and why.
    """

    files: list[Path]
    others: Counter[str]
    closed: dict[Path, DataError]


def found_files(folder: Path, without: Path) -> Found:
    """The files below a folder. Hidden files and folders are passed over, and links to folders are not followed.

    Args:
        folder: an absolute path.
        without: a folder to pass over, which may be absent or elsewhere.

    Raises:
        DataError: the folder cannot be read.
    """
    found = Found([], Counter(), {})

    def refused(error: OSError) -> None:
        path = Path(error.filename)
        told = DataError(f"cannot read the folder {path}: {error.strerror}")
        if path == folder:
            raise told from error
        found.closed[path] = told

    for place, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(place, name) != without)
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or not _may_be_file(path):
                continue
            if path.suffix.lower() in KINDS:
                found.files.append(path)
            else:
                found.others[path.suffix.lower() or name] += 1
    return found


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder whose names can be read, and nothing else: reading the file tells
        return True


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a file, or a file without pages.

    Attributes:
        text: of it.
        markdown: whether the text is Markdown.
        number: from 1; None in a file without pages.
    """

    text: str
    markdown: bool = False
    number: int | None = None


def read_file(path: Path) -> list[Page]:
    """The pages of a file that hold text; none where it is empty.

    Raises:
        DataError: the file cannot be read, or is a PDF without text.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"cannot index {path}: its name is no UTF-8, so that no source can name it") from error
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is larger than the {_MOST_BYTES >> 20} MB that a document may have")
        read = (replace(page, text=_whole(page.text)) for page in KINDS[path.suffix.lower()](path))
        pages = [page for page in read if page.text.strip()]
    except DataError:
        raise
    except Exception as error:  # of any kind: what libraries make of a damaged file
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read {path}: {told}") from error
    if not pages and path.suffix.lower() == ".pdf":
        raise DataError(f"{path} holds no text, as scanned pages have none")
    return pages


def _whole(text: str) -> str:
    """The text without halves of surrogate pairs, which PDF files with damaged tables of characters give."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def passages_of(path: Path, folder: Path, pages: Iterable[Page], split: Splitter) -> Iterator[Document]:
    """The passages of a file.

    Args:
        path: the file.
        folder: that is indexed; paths in metadata are relative to it.
        pages: of the file.
        split: cuts texts.

    Yields:
        Passages, whose metadata are `source` (the file's path), `folder`, and `page`, from 1, in a PDF. Their ids name
        the file, the page and the number of the passage, and stay the same while these do.
    """
    common: dict[str, Any] = {"source": path.relative_to(folder).as_posix(), "folder": str(folder)}
    for page in pages:
        where = {} if page.number is None else {"page": page.number}
        name = f"{path.as_posix()}#" if page.number is None else f"{path.as_posix()}#page={page.number}&"
        for number, text in enumerate(split(page.text, page.markdown), 1):
            yield Document(f"{name}passage={number}", text, common | where)


def _plain(path: Path) -> Iterator[Page]:
    yield Page(decoded(path))


def _markdown(path: Path) -> Iterator[Page]:
    yield Page(decoded(path), markdown=True)


def _html(path: Path) -> Iterator[Page]:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(path.read_bytes(), "html.parser")  # finds the encoding that the page declares
    for hidden in soup(["script", "style", "noscript", "template"]):
        hidden.decompose()
    converter: Any = MarkdownConverter(heading_style="ATX", strip=["img"])
    yield Page(converter.convert_soup(soup), markdown=True)


def _pdf(path: Path) -> Iterator[Page]:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what cannot be read is told by its error, with the file
    for number, page in enumerate(PdfReader(path).pages, 1):
        yield Page(page.extract_text(), number=number)


KINDS: dict[str, Callable[[Path], Iterator[Page]]] = {
    ".txt": _plain,
    ".text": _plain,
    ".rst": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
}
"""How files are read, by their suffix."""


def decoded(path: Path) -> str:
    """The text of a file, in UTF-8 or, where a byte order mark says so, UTF-16.

    Raises:
        DataError: it is in neither.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot read {path}: byte {error.start} is no {encoding.removesuffix('-sig').upper()}"
        ) from error
