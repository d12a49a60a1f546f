"""Gathering: candidates from the posting lists of the centroids near a query's routed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.postings import Postings
from fastlane_rag.storage.snapshot import Mask

if TYPE_CHECKING:
    from fastlane_rag.scoring.native import kernels

__all__ = ["Gatherer", "Probes", "can_gather", "probe"]

_MOST = (1 << 16) - 1  # query tokens: the uint16 stamps of a gather count up to this


@dataclass(frozen=True, slots=True)
class Probes:
    """The centroids near some query tokens.

    Attributes:
        centroids: (k, n) int64, the n best centroids of each token, best first.
        gains: (k, n) float32, the product of token and centroid minus `least` of the token.
        least: (k,) float32, the product with the best centroid not probed, or with the worst where all are probed.
    """

    centroids: NDArray[np.int64]
    gains: NDArray[np.float32]
    least: NDArray[np.float32]

    def nearest(self, n: int) -> Probes:
        """The same with the n best centroids of each token, or all there are."""
        if n >= self.centroids.shape[1]:
            return self
        beyond = self.gains[:, n]
        return Probes(self.centroids[:, :n], self.gains[:, :n] - beyond[:, None], self.least + beyond)


def probe(products: NDArray[np.float32], tokens: int, nprobe: int) -> Probes:
    """The best centroids of a query's first tokens.

    Args:
        products: (K, L) products of centroids and query tokens, C-contiguous.
        tokens: how many query tokens gather; they come first.
        nprobe: centroids to probe for each token.
    """
    from fastlane_rag.scoring.native import kernels

    rows, values = kernels.best_rows(products, min(tokens, _MOST), min(nprobe + 1, len(products)))
    return Probes(rows[:, :nprobe], values[:, :nprobe] - values[:, -1:], values[:, -1])


class Gatherer:
    """Gathers documents from the posting lists of several segments of one codec.

    Args:
        postings: the posting lists of each segment.
        firsts: number of each segment's first document: document r of segment s has the number firsts[s] + r.
        total: documents of the whole snapshot, which bounds the numbers.
        policy: sets the documents in a block and the postings that are worth a thread.
    """

    def __init__(
        self, postings: Sequence[Postings], firsts: Sequence[int], total: int, policy: SearchPolicy | None = None
    ) -> None:
        policy = policy or SearchPolicy()
        self._per_thread, step = policy.gather_postings, policy.gather_block
        self._postings = list(postings)  # keeps the arrays alive: the blocks hold their addresses
        self._total = total
        blocks = []
        for segment, base in zip(postings, firsts, strict=True):
            documents, lists = segment.documents, segment.lists
            arrays = documents.ctypes.data, documents.itemsize, len(documents), lists.ctypes.data, len(lists) - 1
            for start in range(0, segment.count, step):
                blocks.append([*arrays, base, start, min(start + step, segment.count)])
        self._blocks = np.array(blocks, np.int64).reshape(-1, 8)
        self._entries = sum(len(segment.documents) for segment in postings)
        self._lists = max(len(segment.lists) - 1 for segment in postings)
        # Buffers for one gather each. There are as many as gathers ever ran at one time.
        self._rooms: list[kernels.Gathering] = []

    def gather(self, probes: Probes, allowed: Mask | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scan the postings of probed centroids; score the documents in them by centroid alone.

        For each query token, a document scores the product with its best probed centroid. A document without a probed
        centroid gets the product with the best centroid not probed, an upper bound (as in XTR and WARP).

        Args:
            probes: the centroids of the query tokens.
            allowed: (N,) documents that may be found, by number; None for all.

        Returns:
            The documents found, in no particular order, and their scores.
        """
        from fastlane_rag.scoring.native import kernels
        from fastlane_rag.scoring.threads import get_threads

        try:
            room = self._rooms.pop()
        except IndexError:
            room = kernels.Gathering(self._blocks, self._total)
        walked = self._entries * probes.centroids.size // self._lists
        threads = max(1, min(get_threads(), len(self._blocks), walked // self._per_thread))
        found = room.gather(probes.centroids, probes.gains, allowed, float(probes.least.sum()), threads)
        self._rooms.append(room)
        return found


def can_gather() -> bool:
    """Whether the compiled kernel that gathers can run here."""
    from fastlane_rag.scoring.native import kernels

    return kernels.available()
