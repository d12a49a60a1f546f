"""The walk over posting lists, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastlane_rag.scoring.cpu_code_tile import load_2, load_4, load_8
from fastlane_rag.scoring.cpu_compile import compiled

__all__ = ["best_rows", "collect", "gather"]


@compiled
def best_rows(products: NDArray[np.float32], rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Write the largest products of the first k columns, descending, and their rows: (k, n) both, n at most K."""
    tokens, most = rows.shape
    values[:] = -np.inf
    rows[:] = 0
    least = np.full(tokens, -np.inf, np.float32)
    for row in range(len(products)):
        # Few rows are among the best of any token: the others are passed over without a branch for each.
        any_better = False
        for k in range(tokens):
            any_better |= products[row, k] > least[k]
        if not any_better:
            continue
        for k in range(tokens):
            value = products[row, k]
            if value > least[k]:
                at = most - 1
                while at > 0 and values[k, at - 1] < value:
                    values[k, at], rows[k, at] = values[k, at - 1], rows[k, at - 1]
                    at -= 1
                values[k, at], rows[k, at] = value, row
                least[k] = values[k, most - 1]


@compiled
def gather(
    first: int,
    last: int,
    blocks: NDArray[np.int64],
    rows: NDArray[np.int64],
    gains: NDArray[np.float32],
    everything: bool,
    allowed: NDArray[np.bool_],
    scores: NDArray[np.float32],
    stamps: NDArray[np.uint16],
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Walk the lists of the best centroids of each token, in blocks of documents; see `Gatherer`.

    Args:
        first: number of the first block to walk.
        last: number after the last one.
        blocks: (B, 6): of each the address of its segment's postings, how many bytes one has, the address of the int64
            bounds of the lists, the segment's first document by number, and the first and the last + 1 of the block as
            the postings name them.
        rows: (k, n) centroids to probe for each token, best first; k below 65,536.
        gains: (k, n) what each adds to a document's score.
        everything: whether all documents are allowed.
        allowed: (N,) which are, else.
        scores: (N,) written for the documents found.
        stamps: (N,) zeros; left at the last token that met each document found, counted from 1.
        found: (N,) written: the documents found in each block, from the number of its first one on.
        counts: (B,) written: how many these are.
    """
    for b in range(first, last):
        block = blocks[b]
        postings, size, lists, base, start, end = block[0], block[1], block[2], block[3], block[4], block[5]
        count = 0
        for k in range(len(rows)):
            stamp = np.uint16(k + 1)
            for i in range(rows.shape[1]):
                p, stop = load_8(lists + 8 * rows[k, i]), load_8(lists + 8 * rows[k, i] + 8)
                if start > 0:
                    p = _first_not_below(postings, size, p, stop, start)
                # Descending: the first centroid that meets a document is its best.
                while p < stop:
                    document = _posting(postings, size, p)
                    p += 1
                    if document >= end:
                        break
                    number = base + document
                    # A damaged file may have lists out of order.
                    if document < start or stamps[number] == stamp:
                        continue
                    if stamps[number] == 0:
                        if not everything and not allowed[number]:
                            continue
                        scores[number] = 0
                        found[base + start + count] = number
                        count += 1
                    scores[number] += gains[k, i]
                    stamps[number] = stamp
        counts[b] = count


@compiled
def collect(
    blocks: NDArray[np.int64],
    scores: NDArray[np.float32],
    stamps: NDArray[np.uint16],
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
    least: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What `gather` found, from all blocks, and the scores with what every document has; the stamps are zeros again.

    Args as `gather`, and:
        least: (k,) what each token adds to every score.
    """
    total = 0
    for b in range(len(blocks)):
        total += counts[b]
    documents, gathered = np.empty(total, np.int64), np.empty(total, np.float32)
    every = np.float32(0)
    for k in range(len(least)):
        every += least[k]
    n = 0
    for b in range(len(blocks)):
        start = blocks[b, 3] + blocks[b, 4]
        for i in range(start, start + counts[b]):
            document = found[i]
            documents[n], gathered[n] = document, scores[document] + every
            stamps[document] = 0
            n += 1
    return documents, gathered


@njit(nogil=True)
def _posting(postings: int, size: int, p: int) -> int:
    return load_2(postings + 2 * p) if size == 2 else load_4(postings + 4 * p)


@njit(nogil=True)
def _first_not_below(postings: int, size: int, first: int, last: int, document: int) -> int:
    """Where the first posting that is not below a document stands, in an ascending list."""
    while first < last:
        middle = (first + last) // 2
        if _posting(postings, size, middle) < document:
            first = middle + 1
        else:
            last = middle
    return first
