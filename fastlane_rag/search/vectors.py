"""The vectors of one commit's documents, and which are nearest to a query's vector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.search.graph import Graphs
from fastlane_rag.search.lanes.ranking import best
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.segment import Segment
from fastlane_rag.storage.snapshot import Mask, Snapshot

if TYPE_CHECKING:
    import torch

    from fastlane_rag.vectors.documents import DocumentVectors
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["Guess", "Multiplier", "Vectors", "products"]

Queries = dict[str, tuple[NDArray[np.float32], float]]
"""The vector of a query and its constant, by the name of their map."""

_FINEST = 2047  # levels either way that the kernel takes of a query
_WORTH_TWO = 8  # up to this many times the whole vectors, comparing all of them is faster than two steps
_FEW = 8  # of so many documents one is allowed, or all are multiplied


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment whose documents, first to last - 1, have vectors."""

    name: str
    first: int
    last: int
    vectors: DocumentVectors


class Multiplier(Protocol):
    """Multiplies vectors, such as an engine."""

    def products(
        self, vectors: DocumentVectors, query: NDArray[np.float32], numbers: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """See `products`."""
        ...

    def nearest(
        self, vectors: DocumentVectors, query: NDArray[np.float32], allowed: Mask | None, count: int
    ) -> NDArray[np.int64] | None:
        """The documents with the greatest products, where they are chosen without bringing all products back.

        Args:
            vectors: (n, m).
            query: as `products` takes it.
            allowed: (n,) documents that may be found; None for all.
            count: how many, at least 1, and all that tie with the last one.

        Returns:
            Their numbers, ascending; None where `products` are to be compared instead.
        """
        ...


class Vectors:
    """The parts of a snapshot whose documents have vectors.

    Args:
        reader: of the same commit.
        snapshot: N documents.
        graphs: of the segments, which outlive the commit.
        maps: by name, from commits before; those of this commit are kept in it. To read one takes milliseconds.

    Attributes:
        missing: (N,) bool, true for documents without a vector; None where there are none.
        any: whether a document has one.
    """

    def __init__(self, reader: Reader, snapshot: Snapshot, graphs: Graphs, maps: dict[str, VectorMap]) -> None:
        self._graphs = graphs
        self._count = int(snapshot.starts[-1])
        self._parts: list[_Part] = []
        self._maps: dict[str, VectorMap] = {}
        missing = np.ones(self._count, np.bool_)
        for part, (first, last) in zip(snapshot.parts, pairwise(snapshot.starts.tolist()), strict=True):
            if part.vectors is None or not isinstance(part.source, Segment):
                continue
            known = maps.get(part.vectors.name) or reader.vector_map(part.codec)
            if known is not None and known.name == part.vectors.name:
                self._maps[known.name] = maps[known.name] = known
                self._parts.append(_Part(part.source.info.name, first, last, part.vectors))
                missing[first:last] = False
        graphs.keep(one.name for one in self._parts)
        for name in [*maps]:  # a copy, as other threads keep theirs
            if name not in self._maps:
                maps.pop(name, None)
        self.any = bool(self._parts)
        self.missing = missing if missing.any() else None

    def queries(self, rows: torch.Tensor) -> Queries:
        """The vector (m,) of a query's token rows (L, dim) and its constant, by the name of each map."""
        return {name: known.query(rows) for name, known in self._maps.items()}

    def nearest(
        self,
        rows: torch.Tensor,
        allowed: Mask | None,
        count: int,
        policy: SearchPolicy,
        multiplier: Multiplier,
    ) -> tuple[NDArray[np.int64], int]:
        """The documents with the greatest products, ascending, and how many vectors were compared.

        Leading dimensions hold most of what a vector says, so they choose among many documents, and whole vectors
        among the best by them. Very large segments have a graph that chooses instead, except where a device does.

        Args:
            rows: (L, dim) the query's tokens that gather.
            allowed: (N,) documents that may be found; None for all.
            count: how many, and more where some tie; fewer where no more have a vector and are allowed.
            policy: says how many dimensions and documents.
            multiplier: of the vectors.
        """
        queries = self.queries(rows)
        whole = policy.vector_whole * count
        found: list[NDArray[np.int64]] = []
        scanned, compared = [], 0
        for one in self._parts:
            some = None if allowed is None else allowed[one.first : one.last]
            near = multiplier.nearest(one.vectors, queries[one.vectors.name][0][: policy.vector_scan], some, whole)
            if near is not None:
                compared += len(one.vectors)
            else:
                near = self._by_graph(one, queries, some, count, policy)
            scanned += [one] if near is None else []
            found += [] if near is None else [near + one.first]
        if scanned:
            few = sum(len(one.vectors) for one in scanned) <= _WORTH_TWO * whole
            dimensions = None if few else policy.vector_scan
            scores, products_there = self._scores(scanned, queries, allowed, dimensions, multiplier)
            compared += products_there
            if few and not found:
                return best(scores, count), compared
            found.append(best(scores, whole))
        chosen = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
        again = self.products(queries, chosen, multiplier)
        return chosen[best(again, count)], compared + len(chosen)

    def products(self, queries: Queries, numbers: NDArray[np.int64], multiplier: Multiplier) -> NDArray[np.float32]:
        """(n,): what the vectors say the SumMaxSim of a query is with documents, (n,) ascending, that have one."""
        found = np.empty(len(numbers), np.float32)
        for one in self._parts:
            here = slice(*np.searchsorted(numbers, (one.first, one.last)))
            query, constant = queries[one.vectors.name]
            found[here] = multiplier.products(one.vectors, query, numbers[here] - one.first) + constant
        return found

    def _by_graph(
        self, one: _Part, queries: Queries, some: Mask | None, count: int, policy: SearchPolicy
    ) -> NDArray[np.int64] | None:
        """What the graph of a large segment finds among some of it; None where the segment is to be scanned."""
        if len(one.vectors) < policy.vector_graph or count >= len(one.vectors):
            return None
        matching = len(one.vectors) if some is None else int(np.count_nonzero(some))
        graph = None if matching * _FEW < len(one.vectors) else self._graphs.of(one.name, one.vectors)
        if graph is None:
            return None
        found = graph.nearest(queries[one.vectors.name][0], some, count)
        return found if len(found) >= min(count, matching) else None

    def _scores(
        self, parts: list[_Part], queries: Queries, allowed: Mask | None, dimensions: int | None, multiplier: Multiplier
    ) -> tuple[NDArray[np.float32], int]:
        """(N,) products by so many dimensions, -inf where there is none, and how many were computed."""
        scores = np.full(self._count, -np.inf, np.float32)
        compared = 0
        for one in parts:
            query, constant = queries[one.vectors.name]
            here = slice(one.first, one.last)
            numbers = None if allowed is None else np.flatnonzero(allowed[here])
            if numbers is not None and len(numbers) * _FEW < len(one.vectors):
                some = multiplier.products(one.vectors, query[:dimensions], numbers)
                scores[one.first + numbers] = some + constant
                compared += len(numbers)
                continue
            scores[here] = multiplier.products(one.vectors, query[:dimensions], None) + constant
            compared += len(one.vectors)
            if allowed is not None:
                scores[here][~allowed[here]] = -np.inf
        return scores, compared


class Guess:
    """Guesses the SumMaxSim of one query with documents by their vectors.

    Args:
        vectors: of the documents.
        rows: (L, dim) float32, the tokens of the query.
        multiplier: of the vectors.
    """

    def __init__(self, vectors: Vectors, rows: torch.Tensor, multiplier: Multiplier) -> None:
        self._vectors, self._rows, self._multiplier = vectors, rows, multiplier

    @cached_property
    def _queries(self) -> Queries:
        return self._vectors.queries(self._rows)

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """(n,) float32 for documents, (n,) ascending; None where some have no vector."""
        missing = self._vectors.missing
        if missing is not None and missing[numbers].any():
            return None
        return self._vectors.products(self._queries, numbers, self._multiplier)


def products(
    vectors: DocumentVectors, query: NDArray[np.float32], numbers: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """(n,) float32: the products of a vector (m,) with m dimensions of those at these numbers, all where None."""
    from fastlane_rag.scoring.native import kernels

    if not kernels.available():
        import torch

        levels = torch.from_numpy((vectors.levels if numbers is None else vectors.levels[numbers])[:, : len(query)])
        scales = vectors.scales if numbers is None else vectors.scales[numbers]
        found: NDArray[np.float32] = (levels.float() @ torch.from_numpy(query)).numpy() * scales
        return found
    unit = max(float(np.abs(query).max()), 1e-12) / _FINEST
    rounded = np.rint(query / unit).astype(np.int16)
    return kernels.multiply_vectors(vectors.levels, vectors.scales, rounded, numbers) * np.float32(unit)
