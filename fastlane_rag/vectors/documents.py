"""Vectors of documents as they are stored."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["DocumentVectors"]


class DocumentVectors:
    """Vectors of N documents in a byte a dimension: vector = scale * levels.

    Args:
        levels: (N, m) int8.
        scales: (N,) float32.
        name: of the map that made them.
    """

    def __init__(self, levels: NDArray[np.int8], scales: NDArray[np.float32], name: str) -> None:
        self.levels, self.scales, self.name = levels, scales, name

    def __len__(self) -> int:
        return len(self.levels)

    def decoded(self, here: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, m) float32: the vectors of some documents, by their positions."""
        found: NDArray[np.float32] = self.levels[here] * self.scales[here, None]
        return found
