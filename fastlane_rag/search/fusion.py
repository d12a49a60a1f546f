"""Fusion: one score from two lanes for each candidate of a hybrid search."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["fuse"]


def fuse(scores: NDArray[np.float32], words: NDArray[np.float32], tokens: int, weight: float) -> NDArray[np.float32]:
    """The hybrid score: SumMaxSim, plus `weight` for each query token in proportion to the best BM25.

    It does not depend on which other candidates there are, as ranks and scores scaled between the extremes do.

    Args:
        scores: (C,) SumMaxSim of some query tokens with the candidates.
        words: (C,) their BM25; the best one is a candidate.
        tokens: how many query tokens.
        weight: what the best BM25 is worth for each of them.

    Returns:
        (C,) float32.
    """
    most = words.max(initial=0)
    return scores + words * (np.float32(weight) * np.float32(tokens) / most) if most > 0 else scores
