"""The vectors of an index's documents, for whoever keeps them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastlane_rag.storage.transactions import View

__all__ = ["VectorBlock", "blocks_of"]

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class VectorBlock:
    """Documents and their fitted vectors.

    Attributes:
        ids: of the n documents.
        vectors: (n, m) float32.
        map: name of the map that made them. Only products of vectors of one map can be compared.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    map: str


def blocks_of(view: View) -> Iterator[VectorBlock]:
    """The live documents of a commit that have a vector, a few thousand at a time."""
    snapshot = view.snapshot
    for part, here, positions in snapshot.by_part(snapshot.live_numbers):
        vectors = part.vectors
        if vectors is None:
            continue
        numbers = snapshot.live_numbers[here]
        for first in range(0, len(numbers), _BLOCK):
            some = slice(first, first + _BLOCK)
            ids = view.reader.ids_at(snapshot.places(numbers[some]))
            yield VectorBlock(ids, vectors.decoded(positions[some]), vectors.name)
