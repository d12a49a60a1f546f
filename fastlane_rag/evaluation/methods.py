"""FastLane as compared methods: with k routed tokens, refined or not, with all tokens, and hybrid."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastlane_rag.evaluation.method import Answer

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import RoutedQuery
    from fastlane_rag.types import RouteK

__all__ = ["FastLane", "Full", "Hybrid", "Weighted"]


class FastLane:
    """Search of an index, one query per call.

    Args:
        index: holds the corpus.
        route_k: query tokens to gather with.
        refine: False ranks by the routed tokens alone.
        note: tells this index from others in one comparison; part of the name.
    """

    def __init__(self, index: "FastLaneIndex", route_k: "RouteK", *, refine: bool = True, note: str = "") -> None:
        self._index = index
        self._route_k = route_k
        self._refine = refine
        self._note = f", {note}" if note else ""
        self.bytes_per_document: float | None = index.stats().bytes_per_document

    @property
    def name(self) -> str:
        """ "fastlane k=4", or "fastlane k=4 gather" when not refined."""
        return f"fastlane k={self._route_k}" + ("" if self._refine else " gather") + self._note

    def answer(self, query: str, depth: int) -> Answer:
        """Rank by `index.search(query, depth)`."""

        start = perf_counter()
        routed = [_routed(one, self._route_k) for one in self._index.model.encode_routed([query])]
        encoded = perf_counter()
        (result,) = self._index.search_batch_detailed(routed, depth, **self._options(query))
        ids = [hit.id for hit in result.hits]
        return Answer(ids, encoded - start, perf_counter() - encoded, float(result.comparisons))

    def _options(self, query: str) -> dict[str, Any]:
        return {"route_k": self._route_k, "refine": self._refine}


def _routed(query: "RoutedQuery", route_k: "RouteK") -> "RoutedQuery":
    """The query with its scores, views and weights computed, because they count as encoding."""
    _ = query.weights
    if route_k != "all":
        query.compared(query.select(route_k, ordered=False))
    return query


class Full(FastLane):
    """SumMaxSim of all query tokens with every document, without weights, routing or approximation."""

    def __init__(self, index: "FastLaneIndex", *, note: str = "") -> None:
        super().__init__(index, "all", refine=False, note=note)

    @property
    def name(self) -> str:
        """ "full SumMaxSim"."""
        return f"full SumMaxSim{self._note}"

    def _options(self, query: str) -> dict[str, Any]:
        return {**super()._options(query), "weighted": False}


class Weighted(FastLane):
    """As `Full`, but each query token counts by the router's weight."""

    def __init__(self, index: "FastLaneIndex") -> None:
        super().__init__(index, "all", refine=False)

    @property
    def name(self) -> str:
        """ "weighted SumMaxSim"."""
        return "weighted SumMaxSim"


class Hybrid(FastLane):
    """`index.search(query, hybrid=True)`: the default search, with documents of high BM25 among the candidates."""

    def __init__(self, index: "FastLaneIndex") -> None:
        from fastlane_rag.types import DEFAULT_ROUTE_K

        super().__init__(index, DEFAULT_ROUTE_K)

    @property
    def name(self) -> str:
        """ "hybrid"."""
        return "hybrid"

    def _options(self, query: str) -> dict[str, Any]:
        return {**super()._options(query), "hybrid": True, "texts": [query]}
