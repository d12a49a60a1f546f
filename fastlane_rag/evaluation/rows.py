"""Stored rows of an index: those of chosen documents, and their distribution over the codec's centroids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.storage.segment import Segment

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.types import Document

__all__ = ["CentroidCounts", "centroid_counts", "of_documents", "sampled"]


@dataclass(frozen=True)
class CentroidCounts:
    """How the live rows of one codec are distributed over its centroids.

    Attributes:
        codec: name of the codec.
        counts: (K,) int64 token rows of each centroid.
        trained_on: tokens the index held when the codec was trained.
    """

    codec: str
    counts: NDArray[np.int64]
    trained_on: int


def sampled(index: FastLaneIndex, count: int, generator: np.random.Generator) -> list[Document]:
    """Up to `count` documents drawn at random without repetition, in order of insertion."""
    ids = index.ids()
    chosen = np.sort(generator.choice(len(ids), min(count, len(ids)), replace=False))
    return index.get([ids[i] for i in chosen])


def of_documents(index: FastLaneIndex, ids: Sequence[str]) -> list[NDArray[np.floating]]:
    """The decoded (L, dim) stored rows of each of these documents.

    Raises:
        KeyError: no document has one of the ids.
    """
    with index._storage.view() as view:
        placed = view.reader.placed([part.segment for part in view.snapshot.parts])
        places = {id_: (segment, row) for id_, (_, segment, row) in zip(view.reader.ids(None), placed, strict=True)}
        return list(view.snapshot.rows_at(places[one] for one in ids))


def centroid_counts(index: FastLaneIndex) -> list[CentroidCounts]:
    """The counts of every codec with centroids, oldest codec first, without dead documents."""
    with index._storage.view() as view:
        trained = view.reader.codecs()
        counts: dict[str, NDArray[np.int64]] = {}
        for part in view.snapshot.parts:
            if not isinstance(part.source, Segment) or not part.source.codec.lists:
                continue
            centroids = np.asarray(part.source.arrays["centroids"], np.int64)
            if part.live is not None:
                centroids = centroids[np.repeat(part.live, np.diff(part.source.offsets))]
            found = np.bincount(centroids, minlength=part.source.codec.lists)
            counts[part.codec] = found + counts.get(part.codec, 0)
        return [CentroidCounts(name, counts[name], tokens) for name, tokens in trained.items() if name in counts]
