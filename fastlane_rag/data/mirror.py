"""A folder of files mirrored in an index: new and changed files are added, removed ones go out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlane_rag.data.files import Page, Splitter, passages_of, read_file
from fastlane_rag.errors import DataError
from fastlane_rag.types import Ingested

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex

__all__ = ["FolderText", "mirror", "read_folder", "text_splitter"]


@dataclass(frozen=True, slots=True)
class FolderText:
    """What was read of a folder.

    Attributes:
        folder: its absolute path.
        whole: whether all of its files were asked for; otherwise what is stored of others stays.
        pages: of each file that could be read.
        unread: why the others could not; the errors name them.
        closed: why folders could not be looked into.
    """

    folder: Path
    whole: bool
    pages: dict[Path, list[Page]]
    unread: dict[Path, DataError]
    closed: dict[Path, DataError] = field(default_factory=dict)

    @property
    def errors(self) -> list[DataError]:
        """Why files and folders could not be read."""
        return [*self.closed.values(), *self.unread.values()]


def read_folder(
    folder: Path, files: Iterable[Path], *, whole: bool, closed: dict[Path, DataError] | None = None
) -> FolderText:
    """Read files of a folder, `whole` if these are all of them but for those of the `closed` folders in it."""
    found = FolderText(folder, whole, {}, {}, closed or {})
    for file in files:
        try:
            found.pages[file] = read_file(file)
        except DataError as error:
            found.unread[file] = error
    return found


def text_splitter(tokenizer: Any, tokens: int, overlap: int) -> Splitter:
    """What cuts texts into passages of a model's tokens, at headings, paragraphs and sentences where it can.

    Args:
        tokenizer: of the model, a `tokenizers.Tokenizer` that cuts nothing off.
        tokens: of the longest passage, the tokenizer's markers included.
        overlap: tokens at most that a passage repeats of the one before.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    plain = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens, overlap=overlap)
    markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens, overlap=overlap)
    return lambda text, marked: list((markdown if marked else plain).chunks(text))


def mirror(
    index: FastLaneIndex,
    found: FolderText,
    split: Splitter,
    *,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> tuple[Ingested, int]:
    """Make an index hold the passages of a folder as it is now.

    Passages that are stored unchanged are not encoded again. Those that the folder has no more are deleted, at the end;
    what came from elsewhere stays, and so does what was stored of files and folders that could not be read now.

    Returns:
        What was added, changed and unchanged, and how many passages were deleted.
    """
    passages = [one for file, pages in found.pages.items() for one in passages_of(file, found.folder, pages, split)]
    done = index.ingest(passages, batch_size=batch_size, total=len(passages), show_progress=show_progress)
    of_sources: dict[str, Any]
    if found.whole:
        within: list[Any] = [{"source": {"$like": f"{_literal(source)}/%"}} for source in _sources(found, found.closed)]
        of_sources = {"$not": {"$or": [{"source": {"$in": _sources(found, found.unread)}}, *within]}}
    else:
        of_sources = {"source": {"$in": _sources(found, found.pages)}}
    stored = index.ids({"folder": str(found.folder)} | of_sources)
    stale = set(stored) - {passage.id for passage in passages}
    return done, index.delete(sorted(stale))


def _sources(found: FolderText, files: Iterable[Path]) -> list[str]:
    """What the files are called as sources; none is called by a name that is no text."""
    names = (file.relative_to(found.folder).as_posix() for file in files)
    return [name for name in names if _is_text(name)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _literal(text: str) -> str:
    """The text as a pattern of `$like` that fits itself alone."""
    return re.sub(r"([%_\\])", r"\\\1", text)
