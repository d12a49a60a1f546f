"""The query plan: encode, route, gather, refine, fetch.

encode  one forward pass gives a query's token embeddings and the router's scores
route   the router picks the k tokens worth comparing
gather  their partial SumMaxSim with every document that passes the filter gives candidates
refine  full SumMaxSim over all query tokens, for the candidates alone
fetch   text and metadata of the best
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.inputs import check_count, check_texts
from fastlane_rag.index.lanes import exhaustive, rescore
from fastlane_rag.types import Hit

if TYPE_CHECKING:
    import torch

    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.index.filters import Filter
    from fastlane_rag.index.snapshot import Mask
    from fastlane_rag.index.storage import View
    from fastlane_rag.model import RoutedQuery

__all__ = ["DEFAULT_ROUTE_K", "GATHER_FACTOR", "GATHER_LEAST", "RouteK", "SearchResult", "search_many"]

RouteK = int | Literal["auto", "all"]
"""How many query tokens gather: a number, the router's own choice, or every token, which needs no refining."""

DEFAULT_ROUTE_K: RouteK = 8
# Candidates to refine: this many times k, and at least that many.
GATHER_FACTOR = 10
GATHER_LEAST = 256
# Queries are gathered together, as many as keep their scores of every document within this many numbers.
_BATCH_SCORES = 1 << 24
_BATCH_MOST = 32


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One query's hits, and what they cost in comparisons of a query token with a document token.

    Attributes:
        hits: best first.
        routed: the query's embeddings and router scores.
        selected: positions of the query tokens that gathered.
        candidates: documents that were refined, or would have been.
        gathered: comparisons of the gather.
        refined: comparisons of the refinement.
        full: what SumMaxSim of all query tokens with every live document takes.
    """

    hits: list[Hit]
    routed: RoutedQuery
    selected: list[int]
    candidates: int
    gathered: int
    refined: int
    full: int

    @property
    def comparisons(self) -> int:
        """Gathered and refined."""
        return self.gathered + self.refined


def search_many(
    index: FastLaneIndex,
    queries: Sequence[str] | Sequence[RoutedQuery],
    k: int = 10,
    *,
    filter: Filter | None = None,
    route_k: RouteK | None = None,
    refine: bool = True,
) -> list[SearchResult]:
    """Search an index for several queries at one commit, and report what it took.

    Args:
        index: to search.
        queries: texts, or queries the index's model has encoded.
        k: hits a query; min(k, matching documents) are returned.
        filter: only documents whose metadata pass are ranked.
        route_k: query tokens to gather with; None for the default.
        refine: False ranks by the routed tokens alone.

    Raises:
        InvalidInputError: k, route_k or a query is not what it must be.
        FilterError: the filter means nothing.
    """
    k = check_count(k)
    _check_route_k(route_k)
    routed = _encoded(index, queries)
    with index._storage.view() as view:
        allowed = view.allowed(filter)
        plan = _Plan(view, allowed, k, route_k or DEFAULT_ROUTE_K, refine)
        size = max(1, min(_BATCH_MOST, _BATCH_SCORES // max(1, int(view.snapshot.starts[-1]))))
        batches = (routed[first : first + size] for first in range(0, len(routed), size))
        return [result for batch in batches for result in plan.run(batch)]


@dataclass(frozen=True)
class _Plan:
    """What all queries of one call share."""

    view: View
    allowed: Mask | None
    k: int
    route_k: RouteK
    refine: bool

    def run(self, queries: Sequence[RoutedQuery]) -> list[SearchResult]:
        """Answer a few queries, gathering for all of them together."""
        selected = [self._select(query) for query in queries]
        matching = self._count()
        if not self.k or not matching:
            return [self._result([], q, s, 0, 0, 0) for q, s in zip(queries, selected, strict=True)]
        depth = max(GATHER_FACTOR * self.k, GATHER_LEAST)
        whole = [
            self._whole(len(q.embeddings), len(s), matching, depth) for q, s in zip(queries, selected, strict=True)
        ]
        rows = [q.embeddings if w else q.embeddings[s] for q, s, w in zip(queries, selected, whole, strict=True)]
        scores, met = exhaustive(self.view.snapshot, rows, self.allowed)
        results = []
        for query, chosen, is_whole, row in zip(queries, selected, whole, scores, strict=True):
            if self.refine and not is_whole:
                results.append(self._refined(query, chosen, _best(row, depth), met * len(chosen)))
                continue
            best = _best(row, self.k)
            hits = self._fetch(best, row[best])
            if self.refine and len(chosen) < len(query.embeddings):  # everything was refined, nothing gathered
                results.append(self._result(hits, query, chosen, matching, 0, met * len(query.embeddings)))
            else:
                results.append(self._result(hits, query, chosen, 0, met * len(chosen), 0))
        return results

    def _whole(self, tokens: int, routed: int, matching: int, depth: int) -> bool:
        """Whether to compare all tokens at once, because gathering and refining would compare no less."""
        return routed == tokens or (
            self.refine and matching * routed + min(depth, matching) * tokens >= matching * tokens
        )

    def _select(self, query: RoutedQuery) -> torch.Tensor:
        """Positions of the tokens to gather with."""
        if self.route_k == "all":
            import torch

            return torch.arange(len(query.embeddings))
        return query.select(self.route_k)

    def _count(self) -> int:
        """How many documents there are to rank."""
        if self.allowed is None:
            return int(self.view.snapshot.starts[-1])
        return int(np.count_nonzero(self.allowed))

    def _refined(
        self, query: RoutedQuery, selected: torch.Tensor, candidates: NDArray[np.int64], gathered: int
    ) -> SearchResult:
        scores, met = rescore(self.view.snapshot, query.embeddings, candidates)
        best = _best(scores, self.k)
        hits = self._fetch(candidates[best], scores[best])
        return self._result(hits, query, selected, len(candidates), gathered, met * len(query.embeddings))

    def _fetch(self, numbers: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Hit]:
        """The k best of these documents, ties broken by id, with what the catalogue says of them."""
        places = [self.view.snapshot.place(int(number)) for number in numbers]
        ids = self.view.reader.ids_at(places)
        order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[: self.k]
        documents = [self.view.reader.at(places[i]) for i in order]
        return [
            Hit(document.id, float(scores[i]), document.text, document.metadata)
            for i, document in zip(order, documents, strict=True)
        ]

    def _result(
        self,
        hits: list[Hit],
        query: RoutedQuery,
        selected: torch.Tensor,
        candidates: int,
        gathered: int,
        refined: int,
    ) -> SearchResult:
        full = len(query.embeddings) * self.view.snapshot.tokens
        return SearchResult(hits, query, selected.tolist(), candidates, gathered, refined, full)


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions, ascending, of the `count` highest scores above -inf and of all that tie with the last one."""
    if len(scores) > count:
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        chosen = np.flatnonzero((scores >= least) & (scores > -np.inf))
    else:
        chosen = np.flatnonzero(scores > -np.inf)
    return chosen


def _encoded(index: FastLaneIndex, queries: Sequence[str] | Sequence[RoutedQuery]) -> list[RoutedQuery]:
    if isinstance(queries, str) or not all(hasattr(query, "embeddings") for query in queries):
        queries = index.model.encode_routed(check_texts(cast("Sequence[str]", queries), "queries"))
    return [_checked(query, index.dim) for query in cast("Sequence[RoutedQuery]", queries)]


def _checked(query: RoutedQuery, dim: int) -> RoutedQuery:
    """The query on the CPU, where the index is."""
    found = query.embeddings.shape[-1]
    if found != dim:
        raise InvalidInputError(f"the query has {found} dimensions, the index {dim}")
    if not bool(query.embeddings.isfinite().all()):
        raise InvalidInputError("the query's embeddings hold NaN or infinite values")
    if query.embeddings.device.type == "cpu":
        return query
    return replace(query, embeddings=query.embeddings.cpu(), scores=query.scores.cpu())


def _check_route_k(route_k: RouteK | None) -> None:
    number = isinstance(route_k, int) and not isinstance(route_k, bool) and route_k >= 1
    if route_k is not None and route_k not in ("auto", "all") and not number:
        raise InvalidInputError(f"route_k must be a number from 1, 'auto', 'all' or None, not {route_k!r}")
