"""The greedy choice of `fastlane_rag.model.stand_ins` for one document, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastlane_rag.scoring.cpu_compile import compiled

__all__ = ["cover"]


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _gain(similar: NDArray[np.float32], covered: NDArray[np.float32], weights: NDArray[np.float32]) -> np.float32:
    """What a token adds to the cover, of its similarities."""
    total = np.float32(0)
    for i in range(len(weights)):
        total += weights[i] * max(similar[i] - covered[i], np.float32(0))
    return total


@compiled
def cover(similar: NDArray[np.float32], weights: NDArray[np.float32], limit: int, picked: NDArray[np.bool_]) -> None:
    """Pick tokens, each the one that adds most.

    What a token adds only falls as others are picked, so what it added before is a bound, and few tokens need to be
    looked at again for a pick (lazy evaluation; Minoux 1978).

    Args:
        similar: (L, L) symmetric, not negative.
        weights: (L,), 0 where a token may not be picked.
        limit: tokens to pick, no more than may be.
        picked: (L,) written.
    """
    count = len(weights)
    covered = np.zeros(count, np.float32)
    bounds = np.empty(count, np.float32)
    picked[:] = False
    for j in range(count):
        bounds[j] = _gain(similar[j], covered, weights) if weights[j] > 0 else np.float32(-1)
    for _ in range(limit):
        best = bounds.argmax()
        while True:
            bounds[best] = _gain(similar[best], covered, weights)
            again = bounds.argmax()
            if again == best:
                break
            best = again
        picked[best] = True
        bounds[best] = -1
        for i in range(count):
            covered[i] = max(covered[i], similar[best, i])
