"""Lanes: ways to score the documents of a snapshot. MaxSim itself is `fastlane_rag.scoring`'s."""

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.index.snapshot import Mask, Part, RowSource, Snapshot
from fastlane_rag.scoring import maxsim

__all__ = ["TokenCache", "exhaustive", "rescore"]

# Token rows kept in float32 between queries, for all parts of one index together. Larger indexes convert
# block by block, which costs more time and no memory.
CACHE_BYTES = 1 << 30


class TokenCache:
    """Token rows as tensors: float32 copies of the first parts within a budget, views of the others."""

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self._budget = budget
        self._copies: weakref.WeakKeyDictionary[RowSource, torch.Tensor] = weakref.WeakKeyDictionary()

    def rows(self, source: RowSource) -> torch.Tensor:
        """All (T, dim) rows of a part, float32 or float16."""
        copy = self._copies.get(source)
        if copy is not None:
            return copy
        rows = torch.from_numpy(source.rows(0, int(source.offsets[-1])))
        used = sum(tensor.nbytes for tensor in list(self._copies.values()))
        if rows.numel() * 4 > self._budget - used:
            return rows
        copy = self._copies[source] = rows.float()
        return copy


def exhaustive(
    snapshot: Snapshot, cache: TokenCache, queries: Sequence[torch.Tensor], allowed: Mask | None
) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of each query's tokens with every allowed document.

    Args:
        snapshot: N documents.
        cache: the tensors of its parts.
        queries: (k, dim) float32 token rows of each query.
        allowed: (N,) documents to score; None for all.

    Returns:
        (Q, N) float32 scores, -inf where not allowed, and the document tokens each query token met.
    """
    scores = np.full((len(queries), int(snapshot.starts[-1])), -np.inf, np.float32)
    packed = torch.cat(list(queries))
    query_offsets = _offsets([len(query) for query in queries])
    met = 0
    for p, part in enumerate(snapshot.parts):
        start, end = int(snapshot.starts[p]), int(snapshot.starts[p + 1])
        mask = None if allowed is None else allowed[start:end]
        documents, offsets, columns = _choose(part, cache, mask)
        if len(offsets) < 2:
            continue
        found = maxsim(packed, documents, query_offsets=query_offsets, document_offsets=offsets).numpy()
        scores[:, start:end][:, columns] = found
        if mask is not None:
            scores[:, start:end][:, ~mask] = -np.inf
        met += int(offsets[-1] - offsets[0])
    return scores, met


def rescore(
    snapshot: Snapshot, cache: TokenCache, query: torch.Tensor, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """SumMaxSim of one query with chosen documents.

    Args:
        snapshot: where the documents are.
        cache: the tensors of its parts.
        query: (L, dim) float32.
        numbers: (C,) the documents, ascending.

    Returns:
        (C,) float32 scores and the document tokens each query token met.
    """
    if not len(numbers):
        return np.zeros(0, np.float32), 0
    pieces: list[torch.Tensor] = []
    for p, part in enumerate(snapshot.parts):
        inside = numbers[(numbers >= snapshot.starts[p]) & (numbers < snapshot.starts[p + 1])]
        pieces += _slices(part, cache, inside - snapshot.starts[p])
    offsets = _offsets([len(piece) for piece in pieces])
    scores = maxsim(query, _joined(pieces), document_offsets=offsets)[0].numpy()
    return scores, int(offsets[-1])


def _choose(
    part: Part, cache: TokenCache, mask: Mask | None
) -> tuple[torch.Tensor, torch.Tensor, slice | NDArray[np.int64]]:
    """Rows and offsets to score, and which documents they are: all of the part, or copies of few."""
    offsets = part.source.offsets
    if mask is not None:
        chosen = np.flatnonzero(mask)
        tokens = int((offsets[chosen + 1] - offsets[chosen]).sum())
        if 2 * tokens < int(offsets[-1]):
            pieces = _slices(part, cache, chosen)
            return _joined(pieces), _offsets([len(piece) for piece in pieces]), chosen
    return cache.rows(part.source), torch.from_numpy(offsets), slice(None)


def _slices(part: Part, cache: TokenCache, positions: NDArray[np.int64]) -> list[torch.Tensor]:
    if not len(positions):
        return []
    rows, offsets = cache.rows(part.source), part.source.offsets
    bounds = zip(offsets[positions].tolist(), offsets[positions + 1].tolist(), strict=True)
    return [rows[first:last] for first, last in bounds]


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    if not pieces:
        return torch.empty(0, 0)
    if len({piece.dtype for piece in pieces}) > 1:
        pieces = [piece.float() for piece in pieces]
    return torch.cat(pieces)


def _offsets(lengths: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64))
