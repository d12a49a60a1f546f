"""Fusion: one score for each candidate of a hybrid search, from SumMaxSim and from words."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.result import relevance

__all__ = ["by_ranks", "fused", "relative"]

Scores = NDArray[np.float32]


def fused(
    scores: Scores, words: Scores, tokens: int, options: SearchOptions, policy: SearchPolicy
) -> tuple[Scores, Callable[[float], float]]:
    """One score for each candidate as a hybrid search asks for it, and what gives the relevance of a score.

    Args:
        scores: (C,) SumMaxSim of all candidates that there are.
        words: (C,) their BM25.
        tokens: query tokens that `scores` is of.
        options: `hybrid` and `fusion`.
        policy: the weights that they leave open.
    """
    hybrid = options.hybrid
    if options.fusion == "rrf":
        constant = policy.rrf_constant
        ranked = by_ranks(scores, words, constant, policy.rrf_weight if hybrid is True else hybrid)
        return ranked, lambda score: min(score * (constant + 1), 1.0)
    share, weight = (1.0, policy.words_weight) if hybrid is True else (1 - hybrid, hybrid)
    return relative(scores, words, tokens, share, weight), partial(relevance, tokens=tokens)


def relative(scores: Scores, words: Scores, tokens: int, share: float, weight: float) -> Scores:
    """`share` times SumMaxSim, plus `weight` for each query token in proportion to the best BM25.

    It does not depend on which other candidates there are, as ranks and scores scaled between the extremes do. The
    convex combination of arXiv 2210.11934, with SumMaxSim scaled by its bounds of -1 and 1 a token.

    Args:
        scores: (C,) SumMaxSim of some query tokens with the candidates.
        words: (C,) their BM25; the best one is a candidate.
        tokens: how many query tokens.
        share: what SumMaxSim counts.
        weight: what the best BM25 is worth for each query token.

    Returns:
        (C,) float32.
    """
    most = words.max(initial=0)
    own = scores if share == 1 else np.float32(share) * scores
    return own + words * (np.float32(weight) * np.float32(tokens) / most) if most > 0 else own


def by_ranks(scores: Scores, words: Scores, constant: int, weight: float) -> Scores:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009): the sum of weight / (constant + rank) over both rankings.

    Ranks begin at 1, and equal scores share one. A document without a word of the query has no rank by words.

    Args:
        scores: (C,) SumMaxSim of the candidates.
        words: (C,) their BM25.
        constant: what is added to ranks; the higher, the less the first few count.
        weight: of words; 1 - weight is that of SumMaxSim.

    Returns:
        (C,) float32.
    """
    by_words = np.where(words > 0, weight / (constant + _ranks(words)), 0)
    return ((1 - weight) / (constant + _ranks(scores)) + by_words).astype(np.float32)


def _ranks(scores: Scores) -> NDArray[np.int64]:
    """(C,): 1 for the highest score; equal scores have the rank of the first of them."""
    return 1 + np.searchsorted(np.sort(-scores), -scores)
