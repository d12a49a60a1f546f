"""Lanes: ways to score the documents of a snapshot. MaxSim itself is `fastlane_rag.scoring`'s."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.index.postings import Probes, probe
from fastlane_rag.index.snapshot import Mask, Part, Snapshot
from fastlane_rag.scoring import Codes, maxsim
from fastlane_rag.scoring.coded import CodedQuery

# Of the documents found, those best by centroids alone are sifted: so many comparisons of a document with a routed
# token, between the least and the most documents (SIFT_DEPTH says when fewer). On dev queries 1,024 of them keep what
# exhaustive search finds with 16 tokens (scifact, nq_gold_mix, squad, fairytaleqa and, at 100,000 documents,
# arxiv_title; medquad asks for 2,048 to lose nothing), 4,096 with four: half of them find as much but on arxiv_title.
SIFT_COMPARISONS = 16_384
SIFT_LEAST, SIFT_MOST = 1024, 4096
# In proportion fewer where fewer than this, the least by default (search.DEPTH_LEAST), are refined: on 300 train
# queries of scifact 48 of 512 find what 48 of 1,024 find, in four fifths of the time.
SIFT_DEPTH = 96

__all__ = ["Found", "approximate", "best", "exhaustive", "rescore"]


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

    def score(part: Part, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        selection = torch.from_numpy(rows)
        found = maxsim(query, part.source.packed, document_offsets=part.offset_tensor, selection=selection)
        return found[0].numpy(), part.tokens(rows)

    return _part_by_part(snapshot, numbers, score)


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of one query, and what they cost.

    Attributes:
        numbers: (C,) the documents, ascending.
        scores: (C,) float32 SumMaxSim with all tokens of the query.
        gathered: comparisons that found them.
        scored: comparisons that scored them.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    gathered: int
    scored: int


def approximate(
    snapshot: Snapshot,
    query: torch.Tensor,
    gathering: torch.Tensor,
    positions: NDArray[np.int64] | None,
    allowed: Mask | None,
    *,
    nprobe: int,
    depth: int,
) -> Found:
    """Gather candidates by the centroids near the routed tokens, and score those with all tokens.

    Documents that are not in code yet are few; they are gathered by comparing the routed tokens with all of theirs.

    Args:
        snapshot: N documents.
        query: (L, dim) float32.
        gathering: (k, dim) float32, the rows that gather; `query` itself where no others score.
        positions: (k,) where they stand in the query; None where they are no rows of it.
        allowed: (N,) documents that may be found; None for all.
        nprobe: centroids whose documents are looked at, for each routed token.
        depth: candidates, of the documents of each codec and of those without.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for p, part in enumerate(snapshot.parts):
        groups[part.codec].append(p)
    found = []
    for parts in groups.values():
        gather = _in_code if snapshot.parts[parts[0]].postings is not None else _plain
        found.append(gather(snapshot, parts, query, gathering, positions, allowed, nprobe, depth))
    numbers = np.concatenate([np.zeros(0, np.int64), *(f.numbers for f in found)])
    scores = np.concatenate([np.zeros(0, np.float32), *(f.scores for f in found)])
    order = np.argsort(numbers)
    return Found(numbers[order], scores[order], sum(f.gathered for f in found), sum(f.scored for f in found))


def _in_code(
    snapshot: Snapshot,
    parts: list[int],
    query: torch.Tensor,
    gathering: torch.Tensor,
    positions: NDArray[np.int64] | None,
    allowed: Mask | None,
    nprobe: int,
    depth: int,
) -> Found:
    """Candidates among segments of one codec."""
    book = _codes(snapshot.parts[parts[0]]).codebook
    ready = CodedQuery(query, book)
    routed = len(gathering)
    few, at = (CodedQuery(gathering, book), np.arange(routed)) if positions is None else (ready, positions)
    probes = probe(few.products, at, nprobe)
    numbers, partial = [], []
    for p in parts:
        postings = snapshot.parts[p].postings
        if postings is not None:
            mask = None if allowed is None else allowed[snapshot.starts[p] : snapshot.starts[p + 1]]
            rows, scores = postings.gather(probes, mask)
            numbers.append(rows + snapshot.starts[p])
            partial.append(scores)
    found, partial_scores = np.concatenate(numbers), np.concatenate(partial)
    gathered = len(book.centroids) * routed
    if len(found) > depth:
        # One centroid leaves many documents with one score: the codes of the tokens near it tell them apart.
        most = min(SIFT_MOST, max(SIFT_LEAST, SIFT_COMPARISONS // routed))
        most = max(depth, most * min(depth, SIFT_DEPTH) // SIFT_DEPTH)
        found = np.sort(found[best(partial_scores, most)])
        partial_scores, met = _near_scores(snapshot, few, found, at, probes)
        gathered += met * routed
    chosen = np.sort(found[best(partial_scores, depth)])
    scores, tokens = _coded_scores(snapshot, ready, chosen)
    others = len(query) - (0 if positions is None else routed)
    return Found(chosen, scores, gathered, len(book.centroids) * others + tokens * len(query))


def _near_scores(
    snapshot: Snapshot, query: CodedQuery, numbers: NDArray[np.int64], tokens: NDArray[np.int64], probes: Probes
) -> tuple[NDArray[np.float32], int]:
    """Scores of query tokens with the document tokens near them, (C,) float32, and how many these are."""
    near = np.zeros(len(query.products), np.bool_)
    near[probes.centroids] = True

    def score(part: Part, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        return query.near_scores(_codes(part), part.source.offsets, rows, tokens, near, probes.least)

    return _part_by_part(snapshot, numbers, score)


def _coded_scores(snapshot: Snapshot, query: CodedQuery, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim with documents of one codec, (C,) float32, and how many tokens they have."""

    def score(part: Part, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        return query.scores(_codes(part), part.source.offsets, rows), part.tokens(rows)

    return _part_by_part(snapshot, numbers, score)


def _part_by_part(
    snapshot: Snapshot,
    numbers: NDArray[np.int64],
    score: Callable[[Part, NDArray[np.int64]], tuple[NDArray[np.float32], int]],
) -> tuple[NDArray[np.float32], int]:
    """Scores of documents, ascending, and the sum of what is counted for the parts that hold them."""
    scores = np.empty(len(numbers), np.float32)
    met = 0
    for part, here, rows in snapshot.by_part(numbers):
        if len(rows):
            scores[here], counted = score(part, rows)
            met += counted
    return scores, met


def _plain(
    snapshot: Snapshot,
    parts: list[int],
    query: torch.Tensor,
    gathering: torch.Tensor,
    _: NDArray[np.int64] | None,
    allowed: Mask | None,
    nprobe: int,
    depth: int,
) -> Found:
    """Candidates among documents in half precision."""
    mask = np.zeros(int(snapshot.starts[-1]), np.bool_)
    for p in parts:
        here = slice(snapshot.starts[p], snapshot.starts[p + 1])
        mask[here] = True if allowed is None else allowed[here]
    gathered = 0
    chosen = np.flatnonzero(mask)
    if len(chosen) > depth:
        [partial], met = exhaustive(snapshot, [gathering], mask)
        chosen, gathered = best(partial, depth), met * len(gathering)
    scores, met = rescore(snapshot, query, chosen)
    return Found(chosen, scores, gathered, met * len(query))


def _codes(part: Part) -> Codes:
    return cast("Codes", part.source.packed)  # it has postings


def best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions, ascending, of the `count` highest scores above -inf and of all that tie with the last one."""
    if len(scores) > count:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        return np.flatnonzero((scores >= least) & (scores > -np.inf))
    return np.flatnonzero(scores > -np.inf)
