"""One answer out of those of all shards, equal to that of one index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.search.fusion import fused
from fastlane_rag.search.lanes.ranking import best
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.query import EncodedQuery
from fastlane_rag.search.result import STAGES, Hit, Pool, SearchResult, with_relevance
from fastlane_rag.types import Document

__all__ = ["ClusterResult", "Ranking", "best_hits", "doubled", "merged", "ranked"]


@dataclass(frozen=True, slots=True)
class ClusterResult(SearchResult):
    """A search result of a cluster. Comparisons are summed over the shards; milliseconds are those of the slowest.

    Attributes:
        missing: numbers of the shards whose documents were not searched; empty where the answer is whole.
    """

    missing: tuple[int, ...] = ()


def merged(
    results: Mapping[int, SearchResult], hits: list[Hit], query: EncodedQuery, missing: Sequence[int]
) -> ClusterResult:
    """What a search took on all shards, with its hits."""
    found = list(results.values())
    hints = {one.hint for one in found}
    lanes = [one.lane for one in sorted(found, key=lambda one: -one.full)]
    return ClusterResult(
        hits=hits,
        routed=query,
        selected=found[0].selected if found else [],
        candidates=sum(one.candidates for one in found),
        gathered=sum(one.gathered for one in found),
        refined=sum(one.refined for one in found),
        full=sum(one.full for one in found),
        lane=lanes[0] if lanes else "exhaustive",
        by_words=sum(one.by_words for one in found),
        milliseconds={stage: max((one.milliseconds[stage] for one in found), default=0.0) for stage in STAGES},
        # A shard without a key says that no document has it, which is true of all only where all say so.
        hint=hints.pop() if len(hints) == 1 else "",
        missing=tuple(missing),
    )


def best_hits(results: Mapping[int, SearchResult], k: int) -> list[Hit]:
    """The k best hits of all shards, ties broken by id; of a document in two shards the one in the higher is newer."""
    newest = {hit.id: hit for _, one in sorted(results.items()) for hit in one.hits}
    return sorted(newest.values(), key=lambda hit: (-hit.score, hit.id))[:k]


def doubled(results: Mapping[int, SearchResult]) -> int:
    """How many hits are documents that another shard gave too, while they move."""
    given = [hit.id for one in results.values() for hit in one.hits]
    return len(given) - len(set(given))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The candidates of a hybrid search over all shards, best first.

    Attributes:
        ids: of the candidates.
        scores: their fused scores.
        relevance: of a score.
    """

    ids: list[str]
    scores: list[float]
    relevance: Callable[[float], float]

    def hits(self, documents: Iterable[Document]) -> list[Hit]:
        """The hits of some of them, in their order."""
        found = {one.id: one for one in documents}
        return [
            with_relevance(Hit(id_, score, found[id_].text, found[id_].metadata), self.relevance(score))
            for id_, score in zip(self.ids, self.scores, strict=True)
            if id_ in found
        ]


def ranked(results: Mapping[int, SearchResult], options: SearchOptions, policy: SearchPolicy) -> Ranking:
    """Rank the pools of all shards as one index ranks its own: the same candidates, fused by the same best."""
    newest: dict[str, tuple[Pool, int]] = {}
    for _, result in sorted(results.items()):
        if result.pool is not None:
            newest |= {id_: (result.pool, row) for row, id_ in enumerate(result.pool.ids)}
    ids = list(newest)
    scores = np.array([pool.scores[row] for pool, row in newest.values()], np.float32)
    words = np.array([pool.words[row] for pool, row in newest.values()], np.float32)
    if all(one.lane == "exhaustive" for one in results.values()):
        kept = _candidates(scores, words, options, policy)
        ids, scores, words = [ids[i] for i in kept.tolist()], scores[kept], words[kept]
    tokens = max((one.pool.tokens for one in results.values() if one.pool is not None), default=1)
    together, relevant = fused(scores, words, tokens, options, policy)
    least = options.score_threshold
    order = sorted(range(len(ids)), key=lambda i: (-together[i], ids[i]))
    order = [i for i in order if least is None or relevant(float(together[i])) >= least]
    return Ranking([ids[i] for i in order], together[order].tolist(), relevant)


def _candidates(
    scores: NDArray[np.float32], words: NDArray[np.float32], options: SearchOptions, policy: SearchPolicy
) -> NDArray[np.int64]:
    """Positions of those that an exhaustive search over all documents would have taken: each shard took as many."""
    by_scores = best(scores, policy.candidates(options.k, options.depth))
    with_words = np.where(words > 0, words, np.float32(-np.inf))
    by_words = best(with_words, max(policy.words_factor * options.k, policy.words_least))
    return np.union1d(by_scores, by_words)
