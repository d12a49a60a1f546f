"""The engine of the host: the compiled kernels over the mapped segments."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.search.engines.base import Scan, Scanned
from fastlane_rag.search.lanes.exhaustive import exhaustive, rescore
from fastlane_rag.search.lanes.ranking import best, union
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.state import SearchState
from fastlane_rag.search.vectors import products
from fastlane_rag.storage.snapshot import Mask

if TYPE_CHECKING:
    from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["HostEngine"]


class HostEngine:
    """Scans documents on the CPU; see `Engine`."""

    scans_all = False
    products = staticmethod(products)

    def nearest(
        self, vectors: DocumentVectors, query: NDArray[np.float32], allowed: Mask | None, count: int
    ) -> NDArray[np.int64] | None:
        """All products are here to be compared."""
        return None

    def together(self, policy: SearchPolicy, documents: int) -> int:
        """As many queries as keep their scores of every document within bounds."""
        return max(1, min(policy.batch_queries, policy.batch_scores // max(1, documents)))

    def scan(self, state: SearchState, asked: Scan) -> list[Scanned]:
        """All queries together, then each query's candidates."""
        start = perf_counter()
        scores, met = exhaustive(state.snapshot, asked.gathering, asked.allowed)
        share = (perf_counter() - start) / len(scores)
        found = []
        for n, row in enumerate(scores):
            start = perf_counter()
            own = best(row, asked.depth)
            numbers = union(own, asked.also[n])
            gathering = share + perf_counter() - start
            chosen, seen, refining = row[numbers], 0, 0.0
            if asked.refining is not None:
                start = perf_counter()
                chosen, seen = rescore(state, asked.refining[n], numbers)
                refining = perf_counter() - start
            found.append(Scanned(numbers, chosen, len(own), met, seen, 1000 * gathering, 1000 * refining))
        return found
