"""The choice of implementation: the compiled kernels for the device if there are any, else torch."""

from __future__ import annotations

from typing import Protocol

import torch

from fastlane_rag.scoring.inputs import Packed, Request, Rows
from fastlane_rag.scoring.native import backend as native_backend
from fastlane_rag.scoring.torch import backend as torch_backend
from fastlane_rag.scoring.triton import backend as triton_backend

__all__ = ["Backend", "choose", "never_waits"]

_COMPILED = {"cpu": native_backend, "cuda": triton_backend}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Backend(Protocol):
    """What an implementation of MaxSim must do; none tracks gradients itself."""

    def scores(self, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Score queries against documents.

        Returns:
            (Nq, Nd) scores, or (Nq, N) when grouped, float64 for float64 inputs and float32 otherwise, and the
            argmax (Tq, Nd or N) int64 into document rows, -1 for empty documents, or None.
        """
        ...

    def token_maxima(self, query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best match of each query token in each document: values and rows, both (Nd, Lq)."""
        ...

    def bag(
        self, rows: torch.Tensor, indices: torch.Tensor, factors: torch.Tensor, starts: torch.Tensor
    ) -> torch.Tensor:
        """Sum factors[e] * rows[indices[e]] over e from starts[b] to starts[b + 1], for every bag b.

        Both gradients are made of it.

        Args:
            rows: (T, d), any floating dtype.
            indices: (E,) int64 into the rows.
            factors: (E,) in the dtype to sum in.
            starts: (B,) int64 ascending; the last bag ends at E.

        Returns:
            (B, d) in the dtype of the factors.
        """
        ...


def choose(queries: torch.Tensor, documents: Rows) -> Backend:
    """Return the fastest implementation for rows on this device and of these dtypes."""
    compiled = _COMPILED.get(documents.device.type)
    fits = queries.dtype in _DTYPES and documents.dtype in _DTYPES and documents.shape[1] > 0
    return compiled if compiled is not None and fits and compiled.available(documents.device) else torch_backend


def never_waits(queries: torch.Tensor, documents: Rows) -> bool:
    """Whether scoring these launches kernels and does nothing else, so that a CUDA graph can record it.

    That holds for requests with `most_rows`, whose starts and lengths are on the device.
    """
    return choose(queries, documents) is triton_backend
