"""A folder of files mirrored in an index: new and changed files are added, removed ones go out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    """

    folder: Path
    whole: bool
    pages: dict[Path, list[Page]]
    unread: dict[Path, DataError]


def read_folder(folder: Path, files: Iterable[Path], *, whole: bool) -> FolderText:
    """Read files of a folder, `whole` if these are all of them."""
    found = FolderText(folder, whole, {}, {})
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
    what came from elsewhere stays, and so does what was stored of files that could not be read now.

    Returns:
        What was added, changed and unchanged, and how many passages were deleted.
    """
    passages = [one for file, pages in found.pages.items() for one in passages_of(file, found.folder, pages, split)]
    done = index.ingest(passages, batch_size=batch_size, total=len(passages), show_progress=show_progress)
    of_sources = {"$nin": _sources(found, found.unread)} if found.whole else {"$in": _sources(found, found.pages)}
    stored = index.ids({"folder": str(found.folder), "source": of_sources})
    stale = set(stored) - {passage.id for passage in passages}
    return done, index.delete(sorted(stale))


def _sources(found: FolderText, files: Iterable[Path]) -> list[str]:
    return [file.relative_to(found.folder).as_posix() for file in files]
