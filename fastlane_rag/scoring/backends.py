"""The choice of implementation: the compiled kernels for the device if there are any, else torch."""

from __future__ import annotations

from typing import Protocol

import torch

from fastlane_rag.scoring.inputs import Packed, Rows
from fastlane_rag.scoring.native import backend as native_backend
from fastlane_rag.scoring.torch import backend as torch_backend
from fastlane_rag.scoring.triton import backend as triton_backend

__all__ = ["Backend", "choose"]


class Backend(Protocol):
    """The duties of an implementation of MaxSim; `torch.backend` documents arguments and results."""

    def scores(
        self,
        queries: Packed[torch.Tensor],
        documents: Packed[Rows],
        weights: torch.Tensor | None,
        *,
        grouped: bool,
        keep_argmax: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Score queries against documents; must not track gradients itself."""
        ...

    def token_maxima(self, query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best match of each query token in each document: values and rows, both (Nd, Lq)."""
        ...

    def bag(
        self, rows: torch.Tensor, indices: torch.Tensor, factors: torch.Tensor, starts: torch.Tensor
    ) -> torch.Tensor:
        """Sum weighted rows bag by bag, which computes both gradients."""
        ...


def choose(queries: torch.Tensor, documents: Rows) -> Backend:
    """Return the fastest implementation for rows on this device and of these dtypes."""
    if native_backend.supports(queries, documents):
        return native_backend
    if triton_backend.supports(queries, documents):
        return triton_backend
    return torch_backend
