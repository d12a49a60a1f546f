"""Sets of documents by number, and the best of them by score."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["best", "union"]


def union(numbers: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted union of document numbers; `numbers` must be sorted."""
    return np.union1d(numbers, more) if len(more) else numbers


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions, ascending, of the `count` highest scores above -inf and of all that tie with the last one."""
    if len(scores) > count:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        if least != -np.inf:
            return np.flatnonzero(scores >= least)
    return np.flatnonzero(scores > -np.inf)
