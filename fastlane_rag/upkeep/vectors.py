"""The vectors of documents in new segments: fits the map together with a codec, then copies or computes each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import HalfCodec
from fastlane_rag.storage.segment import SegmentWriter
from fastlane_rag.storage.snapshot import Part, Snapshot
from fastlane_rag.upkeep.pace import Pace
from fastlane_rag.vectors.documents import DocumentVectors

if TYPE_CHECKING:
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["fit_map", "write_vectors"]

# Token rows of a document that count in the fit, so that long documents do not make it long.
FIT_TOKENS = 256
_AT_ONCE = 256  # documents


def fit_map(snapshot: Snapshot) -> VectorMap:
    """Fit a vector map to the live rows. Deterministic: the same rows give the same map."""
    from fastlane_rag.vectors.fit import FIT_DOCUMENTS, SAMPLE, fit

    generator = np.random.default_rng(0)
    live = snapshot.live_numbers
    drawn = np.sort(generator.choice(live, min(len(live), FIT_DOCUMENTS), replace=False))
    offsets = np.cumsum([0, *np.minimum(snapshot.lengths[drawn], FIT_TOKENS)])
    chosen = generator.permutation(int(offsets[-1]))[:SAMPLE]
    rows = [_first_rows(snapshot, drawn, offsets)]
    # They have no name here, so that the fit can free them.
    return fit(rows[0][chosen], rows.pop(), offsets)


def _first_rows(snapshot: Snapshot, numbers: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.floating]:
    """The first rows of some documents, as many as `offsets` says, in one array that is filled in place."""
    parts = [(part, positions) for part, _, positions in snapshot.by_part(numbers) if len(positions)]
    half = all(part.codec == HalfCodec.name for part, _ in parts)
    first_part, positions = parts[0]
    dim = _rows(first_part, int(positions[0])).shape[1]
    rows: NDArray[np.floating] = np.empty((int(offsets[-1]), dim), np.float16 if half else np.float32)
    places = ((part, position) for part, positions in parts for position in positions.tolist())
    for (part, position), first, last in zip(places, offsets[:-1], offsets[1:], strict=True):
        rows[first:last] = _rows(part, position)[: last - first]
    for part, _ in parts:
        part.give_back()
    return rows


def write_vectors(
    placed: Sequence[tuple[int, int, int]], parts: Mapping[int, Part], writer: SegmentWriter, pace: Pace | None = None
) -> None:
    """Append the vectors of documents, given as (doc, segment, row), to a segment that has a vector map.

    A vector of the same map is copied, so merging changes none. Others are computed from the stored rows.
    """
    vector_map = writer.vector_map
    if vector_map is None:
        return
    places = np.array(placed, np.int64).reshape(-1, 3)
    for first in range(0, len(places), _AT_ONCE):
        if pace is not None:
            pace()
        block = places[first : first + _AT_ONCE]
        levels, scales = np.empty((len(block), vector_map.size), np.int8), np.empty(len(block), np.float32)
        for segment in np.unique(block[:, 1]).tolist():
            here = np.flatnonzero(block[:, 1] == segment)
            found = _vectors(parts[segment], parts[segment].positions(block[here, 2]), vector_map)
            levels[here], scales[here] = found.levels, found.scales
            parts[segment].give_back()
        writer.append_vectors(DocumentVectors(levels, scales, vector_map.name))


def _vectors(part: Part, positions: NDArray[np.int64], vector_map: VectorMap) -> DocumentVectors:
    known = part.vectors
    if known is not None and known.name == vector_map.name:
        return DocumentVectors(known.levels[positions], known.scales[positions], known.name)
    matrices = [_rows(part, position) for position in positions.tolist()]
    return vector_map.documents(np.concatenate(matrices), np.cumsum([0, *map(len, matrices)]))


def _rows(part: Part, position: int) -> NDArray[np.floating]:
    first, last = part.source.offsets[position : position + 2].tolist()
    return part.source.rows(first, last)
