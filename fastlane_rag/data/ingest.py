"""Adding passages to an index."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlane_rag.data.jsonl import Passage
from fastlane_rag.types import Document, Ingested

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex

__all__ = ["add_passages", "document_of"]


def add_passages(
    index: "FastLaneIndex",
    passages: Iterable[Passage],
    *,
    batch_size: int | None = None,
    total: int | None = None,
    show_progress: bool = False,
) -> Ingested:
    """Add passages to an index by `FastLaneIndex.ingest`, which skips what is stored unchanged."""
    documents = map(document_of, passages)
    return index.ingest(documents, batch_size=batch_size, total=total, show_progress=show_progress)


def document_of(passage: Passage) -> Document:
    """The document to store for a passage. The title becomes a part of its text, and a metadata value."""
    metadata = {"title": passage.title, **passage.metadata} if passage.title else passage.metadata
    return Document(passage.id, passage.content, metadata)
