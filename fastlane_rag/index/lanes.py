"""Lanes: ways to score the documents of a snapshot. MaxSim itself is `fastlane_rag.scoring`'s."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.index.postings import probe
from fastlane_rag.index.snapshot import Coded, Mask, Snapshot
from fastlane_rag.scoring import maxsim
from fastlane_rag.scoring.codes import CodedQuery

# Of the documents found, those best by centroids alone are sifted: one of so many in the collection, between the least
# and the most documents. Centroids leave more documents with like scores in a large one. On dev queries medquad (15,803
# documents) gains .9 points of nDCG@10 over 1,024 documents, and on arxiv_title (100,000) .977 of the ten that
# exhaustive search finds are found instead of .961; in smaller collections (scifact, fairytaleqa, squad) 512 keep the
# nDCG@10 that 1,024 and 2,048 have.
SIFT_SHARE = 8
SIFT_LEAST, SIFT_MOST = 512, 2048
# Fewer routed tokens than these sift more documents, as long as there are no more comparisons of a document with a
# token than these, no more documents than those, and no more than half the collection: 4,096 for four tokens find more
# on arxiv_title than 2,048, but one, two and four tokens find with 2,048 what they find with all 4,094 of fairytaleqa.
SIFT_TOKENS, SIFT_COMPARISONS, SIFT_FEW = 16, 16_384, 4096
# In proportion fewer where fewer than this, the least by default (search.DEPTH_LEAST), are refined, but so many for
# each: refining 32 on fairytaleqa's dev queries, 352 sifted documents have .654 and 171 have .648.
SIFT_DEPTH, SIFT_EACH = 96, 11

__all__ = ["Found", "approximate", "best", "exhaustive", "rescore", "union"]


def exhaustive(
    snapshot: Snapshot, queries: Sequence[torch.Tensor], allowed: Mask | None
) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of each query's tokens with every allowed document, straight from the mapped segments.

    Args:
        snapshot: N documents.
        queries: (k, dim) float32 token rows of each query.
        allowed: (N,) documents to score; None for all.

    Returns:
        (Q, N) float32 scores, -inf where not allowed, and the document tokens each query token met.
    """
    scores = np.full((len(queries), int(snapshot.starts[-1])), -np.inf, np.float32)
    packed = torch.cat(list(queries))
    query_offsets = torch.from_numpy(np.cumsum([0, *map(len, queries)], dtype=np.int64))
    met = 0
    for p, part in enumerate(snapshot.parts):
        target = scores[:, snapshot.starts[p] : snapshot.starts[p + 1]]
        rows, offsets = part.source.packed, part.offset_tensor
        if allowed is None:
            target[:] = maxsim(packed, rows, query_offsets=query_offsets, document_offsets=offsets).numpy()
            met += len(rows)
            continue
        chosen = np.flatnonzero(allowed[snapshot.starts[p] : snapshot.starts[p + 1]])
        selection = torch.from_numpy(chosen)
        target[:, chosen] = maxsim(
            packed, rows, query_offsets=query_offsets, document_offsets=offsets, selection=selection
        ).numpy()
        met += part.tokens(chosen)
    return scores, met


def rescore(snapshot: Snapshot, query: torch.Tensor, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of one query with chosen documents.

    Args:
        snapshot: where the documents are.
        query: (L, dim) float32.
        numbers: (C,) the documents, ascending.

    Returns:
        (C,) float32 scores and the document tokens each query token met.
    """
    scores, met = _rescore_plain(snapshot, query, numbers)
    for coded in snapshot.coded:
        here = coded.documents.has(numbers)
        if here.any():
            scores[here], tokens = CodedQuery(query, coded.documents.codebook).scores(coded.documents, numbers[here])
            met += tokens
    return scores, met


def _rescore_plain(
    snapshot: Snapshot, query: torch.Tensor, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """What `rescore` gives for the documents without a code; the others' scores are not written."""
    scores = np.empty(len(numbers), np.float32)
    met = 0
    for part, here, rows in snapshot.by_part(numbers):
        if part.postings is None and len(rows):
            selection = torch.from_numpy(rows)
            found = maxsim(query, part.source.packed, document_offsets=part.offset_tensor, selection=selection)
            scores[here] = found[0].numpy()
            met += part.tokens(rows)
    return scores, met


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of one query, and what they cost.

    Attributes:
        numbers: (C,) the documents, ascending.
        scores: (C,) float32 SumMaxSim with all tokens of the query.
        added: how many of them were given and not found.
        gathered: comparisons that found them.
        scored: comparisons that scored them.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    added: int
    gathered: int
    scored: int


def approximate(
    snapshot: Snapshot,
    query: torch.Tensor,
    gathering: torch.Tensor | NDArray[np.int64],
    allowed: Mask | None,
    also: NDArray[np.int64],
    *,
    nprobe: int,
    depth: int,
) -> Found:
    """Gather candidates by the centroids near the routed tokens, and score those with all tokens.

    Documents that are not in code yet are few; they are gathered by comparing the routed tokens with all of theirs.

    Args:
        snapshot: N documents.
        query: (L, dim) float32.
        gathering: (k, dim) float32, the rows that gather, or (k,) which rows of the query do.
        allowed: (N,) documents that may be found; None for all.
        also: candidates without being found, in any order.
        nprobe: centroids whose documents are looked at, for each routed token.
        depth: candidates, of the documents of each codec and of those without.
    """
    found = [_in_code(coded, query, gathering, allowed, also, nprobe, depth) for coded in snapshot.coded]
    if snapshot.plain:
        rows = gathering if isinstance(gathering, torch.Tensor) else query[gathering]
        found.append(_plain(snapshot, query, rows, allowed, also, depth))
    if len(found) == 1:
        return found[0]
    numbers = np.concatenate([np.zeros(0, np.int64), *(f.numbers for f in found)])
    scores = np.concatenate([np.zeros(0, np.float32), *(f.scores for f in found)])
    order = np.argsort(numbers)
    counts = (sum(f.added for f in found), sum(f.gathered for f in found), sum(f.scored for f in found))
    return Found(numbers[order], scores[order], *counts)


def _in_code(
    coded: Coded,
    query: torch.Tensor,
    gathering: torch.Tensor | NDArray[np.int64],
    allowed: Mask | None,
    also: NDArray[np.int64],
    nprobe: int,
    depth: int,
) -> Found:
    """Candidates among documents of one codec."""
    book, routed, tokens = coded.documents.codebook, len(gathering), len(query)
    rest = tokens
    if isinstance(gathering, torch.Tensor):
        ready, few = CodedQuery(query, book), CodedQuery(gathering, book)
    else:  # the tokens that gather come first: they also sift without the others
        first = dict.fromkeys(gathering.tolist())
        order = torch.tensor([*first, *(token for token in range(tokens) if token not in first)])
        few = ready = CodedQuery(query.index_select(0, order), book)
        rest -= routed
    centroids = len(few.products)
    probes = probe(few.products, routed, nprobe)
    found, partial_scores = coded.gatherer.gather(probes, allowed)
    gathered = centroids * routed
    if len(found) > depth:
        # One centroid leaves many documents with one score: the codes of the tokens near it tell them apart.
        there = int(coded.documents.counts.sum())
        least = max(SIFT_LEAST, min(there // SIFT_SHARE, SIFT_MOST))
        most = max(least, min(SIFT_FEW, there // 2, min(SIFT_TOKENS * least, SIFT_COMPARISONS) // routed))
        most = max(depth, min(most, max(most * depth // SIFT_DEPTH, SIFT_EACH * depth)))
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
    scores, met = ready.scores(coded.documents, chosen)
    return Found(chosen, scores, len(chosen) - own, gathered, met * tokens + centroids * rest)


def _plain(
    snapshot: Snapshot,
    query: torch.Tensor,
    gathering: torch.Tensor,
    allowed: Mask | None,
    also: NDArray[np.int64],
    depth: int,
) -> Found:
    """Candidates among documents in half precision."""
    mask = np.zeros(int(snapshot.starts[-1]), np.bool_)
    for p in snapshot.plain:
        here = slice(snapshot.starts[p], snapshot.starts[p + 1])
        mask[here] = True if allowed is None else allowed[here]
    gathered = 0
    chosen = np.flatnonzero(mask)
    if len(chosen) > depth:
        [partial], met = exhaustive(snapshot, [gathering], mask)
        chosen, gathered = best(partial, depth), met * len(gathering)
    own, chosen = len(chosen), union(chosen, also[mask[also]])
    scores, met = _rescore_plain(snapshot, query, chosen)
    return Found(chosen, scores, len(chosen) - own, gathered, met * len(query))


def union(numbers: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of these documents, ascending; the first ones are."""
    return np.union1d(numbers, more) if len(more) else numbers


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions, ascending, of the `count` highest scores above -inf and of all that tie with the last one."""
    if len(scores) > count:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        if least != -np.inf:
            return np.flatnonzero(scores >= least)
    return np.flatnonzero(scores > -np.inf)
