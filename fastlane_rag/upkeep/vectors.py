"""The vectors of documents in new segments: fits the map together with a codec, then copies or computes each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
    matrices = [
        _rows(part, position)[:FIT_TOKENS]
        for part, _, positions in snapshot.by_part(drawn)
        for position in positions.tolist()
    ]
    rows, offsets = np.concatenate(matrices), np.cumsum([0, *map(len, matrices)])
    del matrices
    sample = rows[generator.permutation(len(rows))[:SAMPLE]]
    return fit(sample, rows, offsets)


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
