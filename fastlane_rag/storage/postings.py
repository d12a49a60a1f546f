"""Postings: which documents of a segment have a token near each centroid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Postings", "build_postings"]

# Sort the postings of this many tokens at a time, to bound memory.
_BLOCK = 1 << 20


class Postings:
    """The posting lists of one segment of N documents.

    Args:
        documents: (P,) unsigned document numbers, list after list; each list is ascending without repeats.
        lists: (K + 1,) int64 bounds: the list of centroid c is documents[lists[c]:lists[c + 1]].
        count: N, the number of documents.

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
        """Whether building postings from these centroids gives the same lists."""
        built = build_postings(lambda first, last: centroids[first:last], offsets, len(self.lists) - 1)
        return np.array_equal(built["posting_offsets"], self.lists) and np.array_equal(
            built["postings"], self.documents
        )


def build_postings(
    centroids: Callable[[int, int], NDArray[np.generic]], offsets: NDArray[np.int64], lists: int
) -> dict[str, NDArray[np.generic]]:
    """The arrays of a segment that `Postings` reads.

    Args:
        centroids: a function that returns the centroids of the token rows first:last.
        offsets: (N + 1,) bounds: document r owns the token rows offsets[r]:offsets[r + 1].
        lists: K, the number of centroids.

    Returns:
        `posting_offsets` (K + 1,) int64, and `postings` (P,) uint16, or uint32 where N exceeds 65,536.
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
