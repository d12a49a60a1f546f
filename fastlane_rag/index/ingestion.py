"""Add a stream of documents in bounded memory, passing over those that are stored already."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.encoding import MANY
from fastlane_rag.index.progress import documents_bar
from fastlane_rag.storage.metadata import check_text, kind, metadata_json
from fastlane_rag.types import Document, Ingested

__all__ = ["CHUNK", "CHUNK_CHARACTERS", "checked_chunks", "ingest"]

# Documents a write: whole encoder batches of texts of like length, and little lost by an interruption.
CHUNK = 256
# Characters a write, for streams of whole books.
CHUNK_CHARACTERS = 4 << 20


class Collection(Protocol):
    """What documents go into; an index is one."""

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids."""
        ...

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """Store texts; all or nothing."""
        ...


def ingest(
    index: Collection,
    documents: Iterable[Document],
    *,
    batch_size: int | None = None,
    total: int | None = None,
    show_progress: bool | None = None,
) -> Ingested:
    """Add the documents of a stream, as `FastLaneIndex.ingest` says."""
    if show_progress is None:
        show_progress = sys.stderr.isatty() and (total is None or total >= MANY)
    result = Ingested(0, 0, 0, 0)
    with documents_bar("Indexing", total, visible=show_progress) as done:
        for chunk in checked_chunks(documents):
            # Of an id given twice the last document counts, at the place of the first.
            latest = list({document.id: document for document in chunk}.values())
            stored = {document.id: document for document in index.get([one.id for one in latest])}
            fresh = [one for one in latest if not _same(one, stored.get(one.id))]
            if fresh:
                index.add(
                    [one.text for one in fresh],
                    ids=[one.id for one in fresh],
                    metadatas=[one.metadata for one in fresh],
                    batch_size=batch_size,
                    show_progress=False,
                )
            added = sum(one.id not in stored for one in fresh)
            result = replace(
                result,
                documents=result.documents + len(chunk),
                added=result.added + added,
                changed=result.changed + len(fresh) - added,
                unchanged=result.unchanged + len(chunk) - len(fresh),
            )
            done(len(chunk))
    return result


def checked_chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents of a stream, a write each.

    Raises:
        InvalidInputError: an item is no document, or holds what cannot be stored; the chunks before it were given.
    """
    return _chunks(_checked(documents))


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, each checked as it comes, so that errors can say which one it is."""
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise InvalidInputError(f"documents must be a stream of fastlane_rag.types.Document, not {kind(documents)}")
    for number, document in enumerate(documents, 1):
        if not isinstance(document, Document):
            raise InvalidInputError(
                f"document {number} of the stream must be a fastlane_rag.types.Document, not {kind(document)}"
            )
        check_text(f"the id of document {number}", document.id)
        check_text(f"the text of document {number} (id {document.id!r})", document.text)
        metadata_json(document.metadata, f"the metadata of document {number} (id {document.id!r})")
        yield document


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if len(chunk) == CHUNK or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _same(document: Document, stored: Document | None) -> bool:
    # As JSON, because True equals 1 and is another value.
    return (
        stored is not None
        and document.text == stored.text
        and metadata_json(document.metadata) == metadata_json(stored.metadata)
    )
