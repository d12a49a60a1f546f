"""Lanes: ways to score the documents of a snapshot. MaxSim itself is `fastlane_rag.scoring`'s."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.index.snapshot import Mask, Snapshot
from fastlane_rag.scoring import maxsim

__all__ = ["exhaustive", "rescore"]


def exhaustive(
    snapshot: Snapshot, queries: Sequence[torch.Tensor], allowed: Mask | None
) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of each query's tokens with every allowed document, straight from the mapped segments.

    Args:
        snapshot: N documents.
        queries: (k, dim) float32 token rows of each query.
        allowed: (N,) documents to score; None for all.

    Returns:
        (Q, N) float32 scores, -inf where not allowed, and the document tokens each query token met.
    """
    scores = np.full((len(queries), int(snapshot.starts[-1])), -np.inf, np.float32)
    packed = torch.cat(list(queries))
    query_offsets = torch.from_numpy(np.cumsum([0, *map(len, queries)], dtype=np.int64))
    met = 0
    for p, part in enumerate(snapshot.parts):
        target = scores[:, snapshot.starts[p] : snapshot.starts[p + 1]]
        rows, offsets = part.source.packed, part.offset_tensor
        if allowed is None:
            target[:] = maxsim(packed, rows, query_offsets=query_offsets, document_offsets=offsets).numpy()
            met += len(rows)
            continue
        chosen = np.flatnonzero(allowed[snapshot.starts[p] : snapshot.starts[p + 1]])
        selection = torch.from_numpy(chosen)
        target[:, chosen] = maxsim(
            packed, rows, query_offsets=query_offsets, document_offsets=offsets, selection=selection
        ).numpy()
        met += part.tokens(chosen)
    return scores, met


def rescore(snapshot: Snapshot, query: torch.Tensor, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of one query with chosen documents.

    Args:
        snapshot: where the documents are.
        query: (L, dim) float32.
        numbers: (C,) the documents, ascending.

    Returns:
        (C,) float32 scores and the document tokens each query token met.
    """
    scores = np.empty(len(numbers), np.float32)
    bounds = np.searchsorted(numbers, snapshot.starts)
    met = 0
    for p, part in enumerate(snapshot.parts):
        chosen = numbers[bounds[p] : bounds[p + 1]] - snapshot.starts[p]
        if len(chosen):
            rows, offsets = part.source.packed, part.offset_tensor
            selection = torch.from_numpy(chosen)
            found = maxsim(query, rows, document_offsets=offsets, selection=selection)
            scores[bounds[p] : bounds[p + 1]] = found[0].numpy()
            met += part.tokens(chosen)
    return scores, met
