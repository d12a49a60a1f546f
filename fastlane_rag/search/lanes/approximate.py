"""The approximate lane (ANN), for documents in code: centroids gather, vectors and near rows sift, all tokens score."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.codes import CodedQuery
from fastlane_rag.search.lanes.exhaustive import exhaustive, rescore_plain
from fastlane_rag.search.lanes.found import Found
from fastlane_rag.search.lanes.gather import probe
from fastlane_rag.search.lanes.ranking import best, union
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.state import Coded, SearchState
from fastlane_rag.search.vectors import Guess
from fastlane_rag.storage.snapshot import Mask

__all__ = ["approximate"]

_WORTH_VECTORS = 2  # up to so many times the documents, re-scoring takes less time than comparing vectors before


def approximate(
    state: SearchState,
    query: torch.Tensor,
    gathering: torch.Tensor,
    allowed: Mask | None,
    also: NDArray[np.int64],
    *,
    nprobe: int,
    depth: int,
    policy: SearchPolicy,
    guess: Guess | None,
) -> Found:
    """Gather candidates by the centroids near the routed tokens, and score them with all tokens.

    Documents not yet in code are few. They are gathered exhaustively, with the routed tokens.

    Args:
        state: of a commit of N documents.
        query: (L, dim) float32.
        gathering: (k, dim) float32, the rows that the routed tokens are compared by; `query` itself where all gather.
        allowed: (N,) documents that may be found; None for all.
        also: numbers of documents that are candidates in any case, in any order.
        nprobe: posting lists to scan for each routed token.
        depth: candidates to keep of each codec, and of the documents in half precision.
        policy: sets how many documents to sift and to re-score.
        guess: of the query; None where routed tokens alone are to choose.
    """
    found = [_in_code(one, query, gathering, allowed, also, nprobe, depth, policy, guess) for one in state.coded]
    if state.plain:
        found.append(_plain(state, query, gathering, allowed, also, depth))
    if len(found) == 1:
        return found[0]
    numbers = np.concatenate([np.zeros(0, np.int64), *(f.numbers for f in found)])
    scores = np.concatenate([np.zeros(0, np.float32), *(f.scores for f in found)])
    order = np.argsort(numbers)
    counts = (sum(f.added for f in found), sum(f.gathered for f in found), sum(f.scored for f in found))
    return Found(numbers[order], scores[order], *counts, sum(f.scoring_seconds for f in found))


def _in_code(
    coded: Coded,
    query: torch.Tensor,
    gathering: torch.Tensor,
    allowed: Mask | None,
    also: NDArray[np.int64],
    nprobe: int,
    depth: int,
    policy: SearchPolicy,
    guess: Guess | None,
) -> Found:
    """Candidates among documents of one codec."""
    book, routed, tokens = coded.documents.codebook, len(gathering), len(query)
    few = CodedQuery(gathering, book)
    ready = few if gathering is query else CodedQuery(query, book)
    centroids = len(few.products)
    probes = probe(few.products, routed, nprobe)
    found, by_centroid = coded.gatherer.gather(probes, allowed)
    gathered = centroids * routed
    if len(found) > depth:
        chosen, guessed, met = _narrowed(coded, found, by_centroid, routed, tokens, depth, policy, guess)
        closer = probes.nearest(policy.near(routed)) if met else probes  # without vectors, rows alone are to tell
        near = np.zeros(centroids, np.bool_)
        near[closer.centroids] = True
        by_row, rows = few.near_scores(coded.documents, chosen, routed, near, closer.least)
        chosen = chosen[best(guessed + _share(policy, routed, tokens) * by_row, depth)]
        gathered += met + rows * routed
    else:
        chosen = np.sort(found)
    own = len(chosen)
    if len(also):
        chosen = union(chosen, also[coded.documents.has(also)])
    start = perf_counter()
    scores, met = ready.scores(coded.documents, chosen)
    met += 0 if ready is few else ready.multiplied
    return Found(chosen, scores, len(chosen) - own, gathered, met * tokens, perf_counter() - start)


def _narrowed(
    coded: Coded,
    found: NDArray[np.int64],
    by_centroid: NDArray[np.float32],
    routed: int,
    tokens: int,
    depth: int,
    policy: SearchPolicy,
    guess: Guess | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """The documents to re-score by the routed tokens' rows: the best by centroid, where vectors then choose among many.

    Documents near the same centroid tie, and few routed tokens say little of the others. Vectors tell of all tokens.
    In small collections it takes less time to re-score a few more.

    Returns:
        The documents, ascending; what their vectors say, or zeros; and how many vectors were compared.
    """
    alone = policy.rescored(int(coded.documents.counts.sum()), routed, depth)
    if guess is not None and alone > _WORTH_VECTORS * policy.kept(depth):
        chosen = best(by_centroid, policy.sifted(depth))
        chosen = chosen[np.argsort(found[chosen])]
        guessed = guess(found[chosen])
        if guessed is not None:
            both = guessed + _share(policy, routed, tokens) * by_centroid[chosen]
            kept = best(both, policy.kept(depth))
            return found[chosen[kept]], guessed[kept], len(chosen)
    chosen = best(by_centroid, alone)
    return np.sort(found[chosen]), np.zeros(1, np.float32), 0


def _share(policy: SearchPolicy, routed: int, tokens: int) -> np.float32:
    """What the scores of the routed tokens weigh beside a vector's: each of few stands for more, and says it worse."""
    return np.float32(policy.sift_tokens * tokens / np.sqrt(routed))


def _plain(
    state: SearchState,
    query: torch.Tensor,
    gathering: torch.Tensor,
    allowed: Mask | None,
    also: NDArray[np.int64],
    depth: int,
) -> Found:
    """Candidates among documents in half precision."""
    snapshot = state.snapshot
    mask = np.zeros(int(snapshot.starts[-1]), np.bool_)
    for p in state.plain:
        here = slice(snapshot.starts[p], snapshot.starts[p + 1])
        mask[here] = True if allowed is None else allowed[here]
    gathered = 0
    chosen = np.flatnonzero(mask)
    if len(chosen) > depth:
        [partial], met = exhaustive(snapshot, [gathering], mask)
        chosen, gathered = best(partial, depth), met * len(gathering)
    own, chosen = len(chosen), union(chosen, also[mask[also]])
    start = perf_counter()
    scores, met = rescore_plain(snapshot, query, chosen)
    return Found(chosen, scores, len(chosen) - own, gathered, met * len(query), perf_counter() - start)
