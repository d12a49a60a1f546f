"""The vector lane: candidates by the product of one vector of the query with one of each document."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.search.lanes.exhaustive import exhaustive, rescore
from fastlane_rag.search.lanes.found import Found
from fastlane_rag.search.lanes.ranking import best, union
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.state import SearchState
from fastlane_rag.search.vectors import Multiplier, Vectors
from fastlane_rag.storage.snapshot import Mask

__all__ = ["by_vector"]


def by_vector(
    state: SearchState,
    vectors: Vectors,
    query: torch.Tensor,
    gathering: torch.Tensor,
    allowed: Mask | None,
    also: NDArray[np.int64],
    *,
    depth: int,
    policy: SearchPolicy,
    multiplier: Multiplier,
) -> Found:
    """Gather candidates by their vectors, and score them with all tokens.

    Documents without a vector are few: those not yet in code. They are gathered exhaustively.

    Args:
        state: of a commit of N documents.
        vectors: of the same commit.
        query: (L, dim) float32, the tokens to score with.
        gathering: (k, dim) float32, the tokens whose vector gathers.
        allowed: (N,) documents that may be found; None for all.
        also: numbers of documents that are candidates in any case, in any order.
        depth: candidates to keep of those with a vector, and of those without.
        policy: says how vectors are scanned.
        multiplier: of the vectors.
    """
    chosen, gathered = vectors.nearest(gathering, allowed, depth, policy, multiplier)
    if vectors.missing is not None:
        plain = vectors.missing if allowed is None else vectors.missing & allowed
        numbers = np.flatnonzero(plain)
        if len(numbers) > depth:
            [partial], met = exhaustive(state.snapshot, [gathering], plain)
            numbers, gathered = best(partial, depth), gathered + met * len(gathering)
        chosen = union(chosen, numbers)
    own = len(chosen)
    chosen = union(chosen, also)
    start = perf_counter()
    scores, met = rescore(state, query, chosen)
    return Found(chosen, scores, len(chosen) - own, gathered, met * len(query), perf_counter() - start)
