"""Checks the arguments of `scoring` and converts them to one form: packed rows and offsets.

Every error names the wrong value or shape. Nothing here computes a score.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from fastlane_rag.scoring.codes import Codes

__all__ = ["Array", "Packed", "Request", "Rows", "in_order", "pack", "pack_documents", "pack_groups", "pack_weights"]

Array = torch.Tensor | np.ndarray

# torch warns about read-only arrays. They are usual here (memory maps of an index), and nothing writes to them.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


Rows = torch.Tensor | Codes
_R = TypeVar("_R", bound=Rows)
_R_co = TypeVar("_R_co", bound=Rows, covariant=True)


@dataclass(frozen=True)
class Packed(Generic[_R_co]):
    """Token embeddings of several sequences, each a run of rows.

    Attributes:
        rows: (T, d) embeddings, or `Codes`.
        starts: (N,) int64: first row of each sequence.
        lengths: (N,) int64: rows of each sequence.

    Starts and lengths stay on the device they were given on, which need not be that of the rows.
    """

    rows: _R_co
    starts: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def offsets(self) -> torch.Tensor:
        """(N + 1,) int64: the boundaries of sequences that lie one after another, as queries always do."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    def on(self, device: torch.device | str) -> Packed[_R_co]:
        """The same sequences with starts and lengths on `device`."""
        return Packed(self.rows, self.starts.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class Request:
    """What a backend is asked to score.

    Attributes:
        queries: Nq queries.
        documents: Nd documents; when `grouped`, Nd = Nq * N and query q meets documents q * N to q * N + N.
        weights: (Tq,) factor of each query token, or None.
        grouped: see `documents`.
        keep_argmax: also return which document row each query token matched.
        most_rows: no query has more rows; None where the queries' lengths are on the CPU and say it.
        prepared: what a backend made of the queries, for other documents to share: `dataclasses.replace` hands it on.
    """

    queries: Packed[torch.Tensor]
    documents: Packed[Rows]
    weights: torch.Tensor | None = None
    grouped: bool = False
    keep_argmax: bool = False
    most_rows: int | None = None
    prepared: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def columns(self) -> int:
        """Documents that each query meets."""
        return len(self.documents) // max(len(self.queries), 1) if self.grouped else len(self.documents)

    @property
    def longest(self) -> int:
        """Rows of the longest query, or a few more. Nothing waits for a device where `most_rows` is given."""
        return int(self.queries.lengths.max()) if self.most_rows is None else self.most_rows


def in_order(rows: _R, offsets: torch.Tensor) -> Packed[_R]:
    """Sequences one after another: sequence n owns rows offsets[n]:offsets[n + 1]."""
    return Packed(rows, offsets[:-1], offsets.diff())


def pack_documents(
    documents: Array | Codes, offsets: Array | None, mask: Array | None, selection: Array | None
) -> Packed[Rows]:
    """Convert documents to packed form: embeddings as `pack` takes them, or codes with their offsets."""
    if not isinstance(documents, Codes):
        return pack("documents", documents, offsets, mask, selection)
    if mask is not None or offsets is None:
        raise ValueError("documents in code need offsets (N + 1,) and take no mask")
    return _divide("documents", documents, offsets, selection)


def pack(
    side: str,
    embeddings: Array,
    offsets: Array | None,
    mask: Array | None,
    selection: Array | None = None,
) -> Packed[torch.Tensor]:
    """Convert padded or packed embeddings to packed form.

    Args:
        side: "queries" or "documents", for the error messages.
        embeddings: (N, L, d) padded; (T, d) with `offsets`, or (L, d) for a single query.
        offsets: (N + 1,) integers, only with 2-D embeddings.
        mask: (N, L), true at real tokens, only with 3-D embeddings.
        selection: (n,) integers, the sequences to keep, only with offsets. Nothing is copied, and only
            their offsets are checked.

    Raises:
        TypeError: embeddings are not floating point.
        ValueError: the shapes, the offsets or the mask do not fit together.
    """
    rows = _floating(side, embeddings)
    if rows.ndim == 3:
        if offsets is not None:
            raise ValueError(
                f"{side} are padded, shape {tuple(rows.shape)}, and came with offsets too; "
                "offsets go with packed (tokens, dim) embeddings"
            )
        if selection is not None:
            raise ValueError(f"a selection goes with packed {side}, but their shape is {tuple(rows.shape)}")
        return _pack_padded(side, rows, mask)
    if rows.ndim != 2:
        raise ValueError(
            f"{side} must be padded (N, L, dim) or packed (tokens, dim), but the shape is {tuple(rows.shape)}"
        )
    if mask is not None:
        raise ValueError(
            f"{side} are packed, shape {tuple(rows.shape)}, and came with a mask; "
            "a mask goes with padded (N, L, dim) embeddings"
        )
    if offsets is None:
        if side != "queries":
            raise ValueError(
                f"{side} are packed, shape {tuple(rows.shape)}, and need offsets (N + 1,) "
                "to tell them apart; for one document pass embeddings[None]"
            )
        return in_order(rows, torch.tensor([0, len(rows)]))
    return _divide(side, rows, offsets, selection)


def pack_groups(documents: Array, mask: Array | None) -> Packed[torch.Tensor]:
    """Pack (B, N, L, d) documents, B groups of N, into B * N sequences, group after group."""
    padded = _floating("documents", documents)
    if padded.ndim != 4:
        raise ValueError(f"documents must be (B, N, L, dim), but the shape is {tuple(padded.shape)}")
    if mask is not None:
        mask = torch.as_tensor(mask)
        if mask.shape != padded.shape[:3]:
            raise ValueError(
                f"document_mask must have the shape {tuple(padded.shape[:3])} of the documents' tokens, "
                f"but it is {tuple(mask.shape)}"
            )
        mask = mask.flatten(0, 1)
    return _pack_padded("documents", padded.flatten(0, 1), mask)


def pack_weights(weights: Array | None, queries: Array, mask: Array | None) -> torch.Tensor | None:
    """Convert query-token weights, shaped like the queries without their last axis, to (T,)."""
    if weights is None:
        return None
    tensor = _floating("query_weights", weights)
    if tensor.shape != queries.shape[:-1]:
        raise ValueError(
            f"query_weights must have one value per query token, shape {tuple(queries.shape[:-1])}, "
            f"but the shape is {tuple(tensor.shape)}"
        )
    return tensor.flatten() if mask is None else tensor[torch.as_tensor(mask, device=tensor.device).bool()]


def _floating(name: str, values: Array) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, but their dtype is {tensor.dtype}")
    return tensor


def _pack_padded(side: str, padded: torch.Tensor, mask: Array | None) -> Packed[torch.Tensor]:
    count, width, dim = padded.shape
    if mask is None:
        return in_order(padded.reshape(count * width, dim), torch.arange(count + 1, device=padded.device) * width)
    keep = torch.as_tensor(mask, device=padded.device)
    if keep.shape != padded.shape[:2]:
        raise ValueError(
            f"the mask of the {side} must have the shape {(count, width)} of their tokens, "
            f"but it is {tuple(keep.shape)}"
        )
    keep = keep.bool()
    lengths = keep.sum(1)
    return Packed(padded[keep], lengths.cumsum(0) - lengths, lengths)


def _divide(side: str, rows: _R, offsets: Array, selection: Array | None) -> Packed[_R]:
    if selection is None:
        return in_order(rows, _checked_offsets(side, offsets, len(rows)))
    limits = _integers(f"offsets of the {side}", offsets)
    numbers = _integers(f"the selection of {side}", selection).to(limits.device)
    count = len(limits) - 1
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise ValueError(
            f"the selection of {side} must hold numbers from 0 to {count - 1}, "
            f"but runs from {int(numbers.min())} to {int(numbers.max())}"
        )
    starts, ends = limits[numbers], limits[numbers + 1]
    wrong = ((starts < 0) | (starts > ends) | (ends > len(rows))).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{side} {int(numbers[at])} cannot own the rows {int(starts[at])} to {int(ends[at])} "
            f"of the {len(rows)} given; its offsets are wrong"
        )
    return Packed(rows, starts, ends - starts)


def _checked_offsets(side: str, offsets: Array, rows: int) -> torch.Tensor:
    tensor = _integers(f"offsets of the {side}", offsets)
    if len(tensor) == 0:
        raise ValueError(f"offsets of the {side} must be (N + 1,) integers, but there are none")
    falling = tensor.diff() < 0
    # One read for all checks, because each read synchronises with a CUDA device.
    first, last, falls = torch.stack([tensor[0], tensor[-1], falling.sum()]).tolist()
    if first != 0 or last != rows:
        raise ValueError(
            f"offsets of the {side} must run from 0 to the {rows} rows given, but run from {first} to {last}"
        )
    if falls:
        at = int(falling.nonzero()[0])
        raise ValueError(
            f"offsets of the {side} must not decrease, but offsets[{at}] = {int(tensor[at])} "
            f"and offsets[{at + 1}] = {int(tensor[at + 1])}"
        )
    return tensor


def _integers(name: str, values: Array) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(
            f"{name} must be one-dimensional integers, but are {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor.long()
