"""The vectors of one commit's documents, and which are nearest to a query's vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.native import kernels
from fastlane_rag.search.lanes.ranking import best
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.snapshot import Mask, Snapshot

if TYPE_CHECKING:
    from fastlane_rag.vectors.documents import DocumentVectors
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["Vectors", "products"]

_FINEST = 2047  # levels either way that the kernel takes of a query
_FEW = 8  # of so many documents one is allowed, or all are multiplied


class Vectors:
    """The parts of a snapshot whose documents have vectors.

    Args:
        reader: of the same commit.
        snapshot: N documents.

    Attributes:
        missing: (N,) bool, true for documents without a vector; None where there are none.
        any: whether a document has one.
    """

    def __init__(self, reader: Reader, snapshot: Snapshot) -> None:
        maps: dict[str, VectorMap | None] = {}
        self._starts = snapshot.starts
        self._parts: list[tuple[int, DocumentVectors, VectorMap]] = []
        missing = np.ones(int(snapshot.starts[-1]), np.bool_)
        for p, part in enumerate(snapshot.parts):
            if part.vectors is None:
                continue
            if part.codec not in maps:
                maps[part.codec] = reader.vector_map(part.codec)
            known = maps[part.codec]
            if known is not None and known.name == part.vectors.name:
                self._parts.append((p, part.vectors, known))
                missing[snapshot.starts[p] : snapshot.starts[p + 1]] = False
        self.any = bool(self._parts)
        self.missing = missing if missing.any() else None

    def nearest(
        self, rows: torch.Tensor, allowed: Mask | None, count: int, policy: SearchPolicy
    ) -> tuple[NDArray[np.int64], int]:
        """The documents with the greatest products, ascending, and how many vectors were compared.

        Leading dimensions hold most of what a vector says, so they choose among many documents, and whole vectors
        among the best by them.

        Args:
            rows: (L, dim) the query's tokens that gather.
            allowed: (N,) documents that may be found; None for all.
            count: how many, and more where some tie; fewer where no more have a vector and are allowed.
            policy: says how many dimensions and documents.
        """
        maps = {known.name: known for _, _, known in self._parts}
        queries = {name: known.query(rows) for name, known in maps.items()}
        whole = policy.vector_whole * count
        if self._starts[-1] <= 2 * whole:
            scores, compared = self._scores(queries, allowed, None)
            return best(scores, count), compared
        scores, compared = self._scores(queries, allowed, policy.vector_scan)
        chosen = best(scores, whole)
        again = np.empty(len(chosen), np.float32)
        bounds = np.searchsorted(chosen, self._starts)
        for p, vectors, known in self._parts:
            here, (query, constant) = slice(bounds[p], bounds[p + 1]), queries[known.name]
            again[here] = products(vectors, query, chosen[here] - self._starts[p]) + constant
        return chosen[best(again, count)], compared + len(chosen)

    def _scores(
        self, queries: dict[str, tuple[NDArray[np.float32], float]], allowed: Mask | None, dimensions: int | None
    ) -> tuple[NDArray[np.float32], int]:
        """(N,) products by so many dimensions, -inf where there is none, and how many were computed."""
        scores = np.full(int(self._starts[-1]), -np.inf, np.float32)
        compared = 0
        for p, vectors, known in self._parts:
            query, constant = queries[known.name]
            here = slice(self._starts[p], self._starts[p + 1])
            numbers = None if allowed is None else np.flatnonzero(allowed[here])
            if numbers is not None and len(numbers) * _FEW < len(vectors):
                scores[here.start + numbers] = products(vectors, query[:dimensions], numbers) + constant
                compared += len(numbers)
                continue
            scores[here] = products(vectors, query[:dimensions]) + constant
            compared += len(vectors)
            if allowed is not None:
                scores[here][~allowed[here]] = -np.inf
        return scores, compared


def products(
    vectors: DocumentVectors, query: NDArray[np.float32], numbers: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """(n,) float32: the products of a vector (m,) with m dimensions of those at these numbers, all where None."""
    if not kernels.available():
        levels = torch.from_numpy((vectors.levels if numbers is None else vectors.levels[numbers])[:, : len(query)])
        scales = vectors.scales if numbers is None else vectors.scales[numbers]
        found: NDArray[np.float32] = (levels.float() @ torch.from_numpy(query)).numpy() * scales
        return found
    unit = max(float(np.abs(query).max()), 1e-12) / _FINEST
    rounded = np.rint(query / unit).astype(np.int16)
    return kernels.multiply_vectors(vectors.levels, vectors.scales, rounded, numbers) * np.float32(unit)
