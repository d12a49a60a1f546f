"""Fusion: one score from two lanes for each candidate of a hybrid search."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORDS_WEIGHT", "fuse"]

# What the best BM25 is worth, for each query token: the others in proportion. nDCG@10 on dev queries of squad_dev,
# scifact and fairytaleqa (2,067, 2,000 and 2,000 documents): SumMaxSim .925, .765 and .688, BM25 .885, .741 and .652;
# at weights 0.1, 0.15, 0.2: .935 .777 .725, .934 .785 .728, .930 .783 .723. Reciprocal ranks with the constant 60 reach
# .914 .773 .706 and with 10 .921 .776 .718; scores between the extremes, 0.3 for BM25, .929 .785 .722.
WORDS_WEIGHT = np.float32(0.15)


def fuse(scores: NDArray[np.float32], words: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """The hybrid score: SumMaxSim, and 0.15 for each query token where BM25 is the best there is, in proportion else.

    It does not depend on which other candidates there are, as ranks and scores scaled between the extremes do.

    Args:
        scores: (C,) SumMaxSim of some query tokens with the candidates.
        words: (C,) their BM25; the best one is a candidate.
        tokens: how many query tokens.

    Returns:
        (C,) float32.
    """
    most = words.max(initial=0)
    return scores + words * (WORDS_WEIGHT * np.float32(tokens) / most) if most > 0 else scores
