"""The approximate lane (ANN), for documents in code: scan postings of near centroids, prune, re-score."""

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
from fastlane_rag.storage.snapshot import Mask

__all__ = ["approximate"]


def approximate(
    state: SearchState,
    query: torch.Tensor,
    gathering: torch.Tensor | NDArray[np.int64],
    allowed: Mask | None,
    also: NDArray[np.int64],
    *,
    nprobe: int,
    depth: int,
    policy: SearchPolicy,
) -> Found:
    """Gather candidates by the centroids near the routed tokens, and score them with all tokens.

    Documents not yet in code are few. They are gathered exhaustively, with the routed tokens.

    Args:
        state: of a commit of N documents.
        query: (L, dim) float32.
        gathering: the routed tokens: (k, dim) float32 rows, or (k,) positions in `query`.
        allowed: (N,) documents that may be found; None for all.
        also: numbers of documents that are candidates in any case, in any order.
        nprobe: posting lists to scan for each routed token.
        depth: candidates to keep of each codec, and of the documents in half precision.
        policy: sets how many documents to re-score.
    """
    found = [_in_code(coded, query, gathering, allowed, also, nprobe, depth, policy) for coded in state.coded]
    if state.plain:
        rows = gathering if isinstance(gathering, torch.Tensor) else query[gathering]
        found.append(_plain(state, query, rows, allowed, also, depth))
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
    gathering: torch.Tensor | NDArray[np.int64],
    allowed: Mask | None,
    also: NDArray[np.int64],
    nprobe: int,
    depth: int,
    policy: SearchPolicy,
) -> Found:
    """Candidates among documents of one codec."""
    book, routed, tokens = coded.documents.codebook, len(gathering), len(query)
    rest = tokens
    if isinstance(gathering, torch.Tensor):
        ready, few = CodedQuery(query, book), CodedQuery(gathering, book)
    else:  # routed tokens first: pruning scores with them alone
        first = dict.fromkeys(gathering.tolist())
        order = torch.tensor([*first, *(token for token in range(tokens) if token not in first)])
        few = ready = CodedQuery(query.index_select(0, order), book)
        rest -= routed
    centroids = len(few.products)
    probes = probe(few.products, routed, nprobe)
    found, partial_scores = coded.gatherer.gather(probes, allowed)
    gathered = centroids * routed
    if len(found) > depth:
        # Documents near the same centroid tie. Re-score the best by the codes of their tokens near probed centroids.
        most = policy.rescored(int(coded.documents.counts.sum()), routed, depth)
        found = np.sort(found[best(partial_scores, most)])
        near = np.zeros(centroids, np.bool_)
        near[probes.centroids] = True
        partial_scores, met = few.near_scores(coded.documents, found, routed, near, probes.least)
        gathered += met * routed
        chosen = found[best(partial_scores, depth)]
    else:
        chosen = np.sort(found)
    own = len(chosen)
    if len(also):
        chosen = union(chosen, also[coded.documents.has(also)])
    start = perf_counter()
    scores, met = ready.scores(coded.documents, chosen)
    took = perf_counter() - start
    return Found(chosen, scores, len(chosen) - own, gathered, met * tokens + centroids * rest, took)


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
