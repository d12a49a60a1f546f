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

_MOST = (1 << 16) - 1  # query tokens that the stamps of a gather tell apart


@dataclass(frozen=True, slots=True)
class Probes:
    """The centroids near some query tokens.

    Attributes:
        centroids: (k, n) int64 of each token, best first.
        gains: (k, n) float32: by how much each is better than the best that is not probed.
        least: (k,) float32: the product of that one; where all are probed, of the last.
    """

    centroids: NDArray[np.int64]
    gains: NDArray[np.float32]
    least: NDArray[np.float32]


def probe(products: NDArray[np.float32], tokens: int, nprobe: int) -> Probes:
    """The best centroids of a query's first tokens.

    Args:
        products: (K, L) of centroids and query tokens, C-contiguous.
        tokens: how many of them gather.
        nprobe: centroids a token.
    """
    from fastlane_rag.scoring.native import kernels

    rows, values = kernels.best_rows(products, min(tokens, _MOST), min(nprobe + 1, len(products)))
    return Probes(rows[:, :nprobe], values[:, :nprobe] - values[:, -1:], values[:, -1])


class Gatherer:
    """Gathers documents from the posting lists of several segments of one codec.

    Args:
        postings: of each segment.
        firsts: the number of each segment's first document: document r of segment s is number firsts[s] + r.
        total: numbers there are, those of documents elsewhere included.
        policy: how many documents are walked at once, and how many postings are worth a thread.
    """

    def __init__(
        self, postings: Sequence[Postings], firsts: Sequence[int], total: int, policy: SearchPolicy | None = None
    ) -> None:
        policy = policy or SearchPolicy()
        self._per_thread, step = policy.gather_postings, policy.gather_block
        self._postings = list(postings)  # whose arrays lie where the blocks say
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
        # One gather each; as many as there were gathers at one time.
        self._rooms: list[kernels.Gathering] = []

    def gather(self, probes: Probes, allowed: Mask | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Partial scores of the documents near some query tokens, from centroids alone.

        A document's part of the score is that of its best probed centroid; where it has none, that of the best
        centroid not probed stands in, for the document can have no better (the idea is XTR's and WARP's).

        Args:
            probes: of the query tokens.
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
