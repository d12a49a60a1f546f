"""MaxSim by its definition: a loop over queries and documents in float64.

It is slow by design, and the ground truth for the tests of every faster path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["reference_maxsim", "reference_token_maxima"]


def reference_maxsim(
    queries: Sequence[torch.Tensor],
    documents: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Score every query against every document, one pair after another.

    Args:
        queries: Nq tensors (Lq, d).
        documents: Nd tensors (Ld, d); Ld = 0 scores -inf.
        weights: Nq tensors (Lq,) multiplying each query token's maximum.

    Returns:
        (Nq, Nd) float64, differentiable.
    """
    scores = torch.full((len(queries), len(documents)), -torch.inf, dtype=torch.float64)
    for row, query in enumerate(queries):
        weight = 1.0 if weights is None else weights[row].double()
        for column, document in enumerate(documents):
            if len(document):
                maxima = (query.double() @ document.double().T).max(dim=1).values
                scores[row, column] = (maxima * weight).sum()
    return scores


def reference_token_maxima(query: torch.Tensor, documents: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (Nd, Lq) float64: the best dot product of each query token in each document."""
    empty = torch.full((len(query),), -torch.inf, dtype=torch.float64)
    rows = [(query.double() @ d.double().T).max(dim=1).values if len(d) else empty for d in documents]
    return torch.stack(rows) if rows else torch.empty(0, len(query), dtype=torch.float64)
