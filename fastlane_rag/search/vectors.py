"""The vectors of one commit's documents, and their products with a query's vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.snapshot import Mask, Snapshot

if TYPE_CHECKING:
    import torch

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
        self._snapshot = snapshot
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

    def scores(self, rows: torch.Tensor, allowed: Mask | None) -> NDArray[np.float32]:
        """(N,) float32 products with the vector of a query's token rows, (L, dim); -inf where there is none.

        Args:
            rows: the tokens that gather.
            allowed: (N,) documents that may be found; None for all.
        """
        scores = np.full(int(self._snapshot.starts[-1]), -np.inf, np.float32)
        queries: dict[str, tuple[NDArray[np.float32], float]] = {}
        for p, vectors, known in self._parts:
            if known.name not in queries:
                queries[known.name] = known.query(rows)
            query, constant = queries[known.name]
            here = slice(self._snapshot.starts[p], self._snapshot.starts[p + 1])
            if allowed is None:
                scores[here] = products(vectors, query) + constant
                continue
            numbers = np.flatnonzero(allowed[here])
            if len(numbers) * _FEW < len(vectors):
                scores[here.start + numbers] = products(vectors, query, numbers) + constant
            else:
                scores[here] = np.where(allowed[here], products(vectors, query) + constant, -np.inf)
        return scores


def products(
    vectors: DocumentVectors, query: NDArray[np.float32], numbers: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """(n,) float32: the products of a vector (m,) with those at these numbers, all where None."""
    from fastlane_rag.scoring.native import kernels

    if not kernels.available():
        import torch

        levels = torch.from_numpy(vectors.levels if numbers is None else vectors.levels[numbers])
        scales = vectors.scales if numbers is None else vectors.scales[numbers]
        found: NDArray[np.float32] = (levels.float() @ torch.from_numpy(query)).numpy() * scales
        return found
    unit = max(float(np.abs(query).max()), 1e-12) / _FINEST
    rounded = np.rint(query / unit).astype(np.int16)
    return kernels.multiply_vectors(vectors.levels, vectors.scales, rounded, numbers) * np.float32(unit)
