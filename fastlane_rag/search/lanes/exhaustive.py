"""The exhaustive lane: SumMaxSim with every document, and with chosen ones. MaxSim itself is `scoring`'s."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring import maxsim
from fastlane_rag.scoring.codes import CodedQuery
from fastlane_rag.search.state import SearchState
from fastlane_rag.storage.snapshot import Mask, Snapshot

__all__ = ["exhaustive", "rescore", "rescore_plain"]


def exhaustive(
    snapshot: Snapshot, queries: Sequence[torch.Tensor], allowed: Mask | None
) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of each query's tokens with every allowed document, straight from the mapped segments.

    Args:
        snapshot: N documents.
        queries: (k, dim) float32 token rows of each query.
        allowed: (N,) documents to score; None for all.

    Returns:
        (Q, N) float32 scores, -inf where not allowed, and how many document tokens each query token was compared with.
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


def rescore(state: SearchState, query: torch.Tensor, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of one query with chosen documents.

    Args:
        state: the state of the commit that holds the documents.
        query: (L, dim) float32.
        numbers: (C,) the documents, ascending.

    Returns:
        (C,) float32 scores, and how many document tokens each query token was compared with.
    """
    scores, met = rescore_plain(state.snapshot, query, numbers)
    for coded in state.coded:
        here = coded.documents.has(numbers)
        if here.any():
            scores[here], tokens = CodedQuery(query, coded.documents.codebook).scores(coded.documents, numbers[here])
            met += tokens
    return scores, met


def rescore_plain(
    snapshot: Snapshot, query: torch.Tensor, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """`rescore` for the documents in half precision; scores of other documents are left uninitialised."""
    scores = np.empty(len(numbers), np.float32)
    met = 0
    for part, here, rows in snapshot.by_part(numbers):
        if part.postings is None and len(rows):
            selection = torch.from_numpy(rows)
            found = maxsim(query, part.source.packed, document_offsets=part.offset_tensor, selection=selection)
            scores[here] = found[0].numpy()
            met += part.tokens(rows)
    return scores, met
