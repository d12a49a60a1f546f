"""Passages into an index."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from fastlane_rag.data.jsonl import Passage

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex

__all__ = ["add_passages"]

# Passages a write: full encoder batches, a progress bar that moves, and little lost by an interruption.
_CHUNK = 128


def add_passages(index: "FastLaneIndex", passages: Iterable[Passage], *, batch_size: int | None = None) -> None:
    """Add passages in chunks, each one write: what is stored stays stored when a later chunk fails.

    The title goes into the indexed text and, by itself, into the metadata.
    """
    stream = iter(passages)
    while chunk := list(islice(stream, _CHUNK)):
        index.add(
            [passage.content for passage in chunk],
            ids=[passage.id for passage in chunk],
            metadatas=[_metadata(passage) for passage in chunk],
            batch_size=batch_size,
            show_progress=False,
        )


def _metadata(passage: Passage) -> dict[str, object]:
    return {"title": passage.title, **passage.metadata} if passage.title else passage.metadata
