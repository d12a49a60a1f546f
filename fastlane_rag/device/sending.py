"""What the host sends to a device for some queries: one tensor, which one copy takes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.inputs import Packed, Request

__all__ = ["LONGEST", "Asked", "Sent", "Shape", "Tokens", "received", "sent"]

LONGEST = 256  # tokens; longer queries keep a device busy for so long that launches do not matter
_ALIGNED = 4  # rows: what lies behind them begins at a multiple of 16 bytes, as kernels are compiled for
_ALSO = 64  # documents: the least room for those from elsewhere


@dataclass(frozen=True)
class Asked:
    """Some query tokens of each query of a batch.

    Attributes:
        rows: (L, dim) float tokens of each query.
        weights: (L,) float factor of each token's maximum, of each query; None for 1.
    """

    rows: Sequence[torch.Tensor]
    weights: Sequence[torch.Tensor] | None = None

    def some(self, which: list[int]) -> Asked:
        """Those of some queries."""
        weights = None if self.weights is None else [self.weights[n] for n in which]
        return Asked([self.rows[n] for n in which], weights)


@dataclass(frozen=True)
class Tokens:
    """Room for query tokens.

    Attributes:
        count: rows, of all queries.
        longest: rows of a query at most.
        weighted: whether they have weights.
    """

    count: int
    longest: int
    weighted: bool


@dataclass(frozen=True)
class Shape:
    """What lies where. Queries of one shape are searched for by the same kernels, with the same arguments.

    Attributes:
        queries: how many.
        dim: of a row.
        gathering: tokens that all documents are scored with.
        refining: tokens that chosen ones are scored with; None where there are none.
        also: documents from elsewhere, of each query.
    """

    queries: int
    dim: int
    gathering: Tokens
    refining: Tokens | None
    also: int


@dataclass(frozen=True)
class Sent:
    """Queries on the device.

    Attributes:
        gathering: scored with all documents.
        refining: scored with chosen ones; None where the first scores count.
        also: (Nq, A) int64 documents from elsewhere, -1 for none; None where there are none.
    """

    gathering: Request
    refining: Request | None
    also: torch.Tensor | None


def sent(
    gathering: Asked, refining: Asked | None, also: Sequence[NDArray[np.int64]], *, rounded: bool
) -> tuple[Shape, torch.Tensor]:
    """Queries in one tensor of int32, on the host.

    Args:
        gathering: tokens of each query.
        refining: the same, or None.
        also: numbers of documents, of each query.
        rounded: whether to leave so much room that few shapes serve all queries. This costs no time on the device: a
            kernel has slots for as many tokens.
    """
    most = max(map(len, also))
    if rounded and most:
        most = max(_ALSO, _power(most))
    dim = gathering.rows[0].shape[1]
    shape = Shape(
        len(gathering.rows),
        dim,
        _tokens(gathering, rounded=rounded),
        None if refining is None else _tokens(refining, rounded=rounded),
        most,
    )
    numbers = np.full((len(also), most), -1, np.int32)
    for row, some in zip(numbers, also, strict=True):
        row[: len(some)] = some
    parts = [] if refining is None or shape.refining is None else _laid_out(refining, shape.refining)
    return shape, torch.cat([*_laid_out(gathering, shape.gathering), *parts, torch.from_numpy(numbers).flatten()])


def received(shape: Shape, tensor: torch.Tensor) -> Sent:
    """What `sent` made, where the tensor was copied to. Nothing waits for the device."""
    reader = _Reader(shape, tensor)
    gathering = reader.request(shape.gathering)
    refining = None if shape.refining is None else reader.request(shape.refining)
    also = reader.take(shape.queries * shape.also).view(shape.queries, shape.also).long() if shape.also else None
    return Sent(gathering, refining, also)


def _tokens(asked: Asked, *, rounded: bool) -> Tokens:
    longest, weighted = max(map(len, asked.rows)), asked.weights is not None
    if rounded:
        width = max(8, _power(longest)) if longest <= 64 else -(-longest // 64) * 64
        return Tokens(width * len(asked.rows), width, weighted)
    return Tokens(_aligned(sum(map(len, asked.rows))), longest, weighted)


def _power(number: int) -> int:
    """The power of two that is no smaller."""
    return 1 << (number - 1).bit_length()


def _laid_out(asked: Asked, tokens: Tokens) -> list[torch.Tensor]:
    """Rows, weights and lengths as int32, each padded to a multiple of 16 bytes."""
    rows = torch.cat(list(asked.rows)).float()
    parts = [_padded(rows.flatten(), tokens.count * rows.shape[1])]
    if asked.weights is not None:
        parts.append(_padded(torch.cat(list(asked.weights)).float(), tokens.count))
    lengths = torch.tensor([len(one) for one in asked.rows], dtype=torch.int32)
    return [part.view(torch.int32) for part in parts] + [_padded(lengths, _aligned(len(lengths)))]


def _padded(values: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, count - len(values)))


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


class _Reader:
    """Takes what lies one after another in a tensor."""

    def __init__(self, shape: Shape, tensor: torch.Tensor) -> None:
        self._shape, self._tensor, self._first = shape, tensor, 0

    def take(self, count: int) -> torch.Tensor:
        """The next (count,) int32."""
        first, self._first = self._first, self._first + count
        return self._tensor[first : self._first]

    def request(self, tokens: Tokens) -> Request:
        """The next queries, as a backend takes them."""
        rows = self.take(tokens.count * self._shape.dim).view(torch.float32).view(tokens.count, self._shape.dim)
        weights = self.take(tokens.count).view(torch.float32) if tokens.weighted else None
        lengths = self.take(_aligned(self._shape.queries))[: self._shape.queries].long()
        nothing = Packed(rows, lengths[:0], lengths[:0])
        return Request(Packed(rows, lengths.cumsum(0) - lengths, lengths), nothing, weights, most_rows=tokens.longest)
