"""Postings: which documents of a segment have a token near a centroid, and gathering candidates from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastlane_rag.index.snapshot import Mask
    from fastlane_rag.scoring.native import kernels

__all__ = ["Gatherer", "Postings", "Probes", "build_postings", "can_gather", "probe"]

# Tokens whose postings are sorted at once, to bound the memory that takes.
_BLOCK = 1 << 20
_MOST = (1 << 16) - 1  # query tokens that the stamps of a gather tell apart
_DOCUMENTS = 1 << 14  # that are gathered at once, their scores and stamps within a core's cache


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


class Postings:
    """The posting lists of one segment of N documents.

    Args:
        documents: (P,) unsigned: the documents of centroid 0, ascending and each once, those of centroid 1, ...
        lists: (K + 1,) int64: centroid c owns documents[lists[c]:lists[c + 1]].
        count: N.

    Raises:
        ValueError: the lists do not divide the documents.
    """

    def __init__(self, documents: NDArray[np.generic], lists: NDArray[np.int64], count: int) -> None:
        if lists[0] != 0 or lists[-1] != len(documents) or (np.diff(lists) < 0).any():
            raise ValueError(f"the posting lists do not divide {len(documents)} entries")
        self.documents = np.require(documents, requirements=["C", "A"])
        self.lists = np.ascontiguousarray(lists)
        self.count = count

    def agree(self, centroids: NDArray[np.generic], offsets: NDArray[np.int64]) -> bool:
        """Whether these are the postings of token rows with these centroids."""
        built = build_postings(lambda first, last: centroids[first:last], offsets, len(self.lists) - 1)
        return np.array_equal(built["posting_offsets"], self.lists) and np.array_equal(
            built["postings"], self.documents
        )


class Gatherer:
    """Gathers documents from the posting lists of several segments of one codec.

    Args:
        postings: of each segment.
        firsts: the number of each segment's first document: document r of segment s is number firsts[s] + r.
        total: numbers there are, those of documents elsewhere included.
    """

    def __init__(self, postings: Sequence[Postings], firsts: Sequence[int], total: int) -> None:
        self._postings = list(postings)  # whose arrays lie where the blocks say
        self._total = total
        blocks = []
        for segment, base in zip(postings, firsts, strict=True):
            documents, lists = segment.documents, segment.lists
            arrays = documents.ctypes.data, documents.itemsize, len(documents), lists.ctypes.data, len(lists) - 1
            for start in range(0, segment.count, _DOCUMENTS):
                blocks.append([*arrays, base, start, min(start + _DOCUMENTS, segment.count)])
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

        try:
            room = self._rooms.pop()
        except IndexError:
            room = kernels.Gathering(self._blocks, self._total)
        walked = self._entries * probes.centroids.size // self._lists
        found = room.gather(probes.centroids, probes.gains, allowed, float(probes.least.sum()), walked)
        self._rooms.append(room)
        return found


def build_postings(
    centroids: Callable[[int, int], NDArray[np.generic]], offsets: NDArray[np.int64], lists: int
) -> dict[str, NDArray[np.generic]]:
    """The arrays of a segment that `Postings` reads.

    Args:
        centroids: gives those of the token rows first:last.
        offsets: (N + 1,) document r owns the token rows offsets[r]:offsets[r + 1].
        lists: centroids there are.

    Returns:
        `posting_offsets` (K + 1,) int64, and `postings` (P,) uint16, or uint32 where N asks for it.
    """
    documents = len(offsets) - 1
    blocks = []
    counts = np.zeros(lists, np.int64)
    first = 0
    while first < documents:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1)
        owners = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        pairs = np.unique(centroids(int(offsets[first]), int(offsets[last])).astype(np.int64) << 32 | owners)
        in_block = np.bincount(pairs >> 32, minlength=lists)
        blocks.append(((pairs & 0xFFFFFFFF).astype(np.uint32), in_block))
        counts += in_block
        first = last
    starts = np.zeros(lists + 1, "<i8")
    np.cumsum(counts, out=starts[1:])
    postings = np.empty(starts[-1], "<u2" if documents <= 1 << 16 else "<u4")
    free = starts[:-1].copy()
    for found, in_block in blocks:
        before = np.cumsum(in_block) - in_block
        postings[np.repeat(free - before, in_block) + np.arange(len(found))] = found
        free += in_block
    return {"posting_offsets": starts, "postings": postings}


def can_gather() -> bool:
    """Whether the compiled kernel that gathers can run here."""
    from fastlane_rag.scoring.native import kernels

    return kernels.available()
