"""The walk over posting lists, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.scoring.cpu_compile import compiled

__all__ = ["best_rows", "gather"]


@compiled
def best_rows(
    products: NDArray[np.float32], tokens: NDArray[np.int64], rows: NDArray[np.int64], values: NDArray[np.float32]
) -> None:
    """Write each token's largest products, descending, and their rows: (k, n) both, n at most K."""
    most = rows.shape[1]
    values[:] = -np.inf
    rows[:] = 0
    for row in range(len(products)):
        for k in range(len(tokens)):
            value = products[row, tokens[k]]
            if value > values[k, most - 1]:
                at = most - 1
                while at > 0 and values[k, at - 1] < value:
                    values[k, at], rows[k, at] = values[k, at - 1], rows[k, at - 1]
                    at -= 1
                values[k, at], rows[k, at] = value, row


@compiled
def gather(
    rows: NDArray[np.int64],
    gains: NDArray[np.float32],
    documents: NDArray[np.uint32],
    lists: NDArray[np.int64],
    everything: bool,
    allowed: NDArray[np.bool_],
    scores: NDArray[np.float32],
    stamps: NDArray[np.uint16],
    found: NDArray[np.uint32],
) -> int:
    """Walk the lists of the best centroids of each token; see `Postings.gather`.

    Args:
        rows: (k, n) centroids to probe for each token, best first; k below 65,536.
        gains: (k, n) what each adds to a document's score.
        documents: (P,) postings.
        lists: (K + 1,) where each centroid's begin.
        everything: whether all documents are allowed.
        allowed: (N,) which are, else.
        scores: (N,) written for the documents found.
        stamps: (N,) zeros; left at the last token that met each document found, counted from 1.
        found: (N,) written: the documents found.

    Returns:
        How many were found.
    """
    count = 0
    for k in range(len(rows)):
        stamp = np.uint16(k + 1)
        for i in range(rows.shape[1]):
            # Descending: the first centroid that meets a document is its best.
            for p in range(lists[rows[k, i]], lists[rows[k, i] + 1]):
                document = documents[p]
                # A damaged file may name documents that do not exist.
                if document >= len(stamps) or stamps[document] == stamp:
                    continue
                if stamps[document] == 0:
                    if not everything and not allowed[document]:
                        continue
                    scores[document] = 0
                    found[count] = document
                    count += 1
                scores[document] += gains[k, i]
                stamps[document] = stamp
    return count
