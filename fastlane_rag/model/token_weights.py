"""Weights of query tokens: how much each counts where all tokens score a document."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["QueryWeights", "mean_one"]


class QueryWeights(nn.Module):
    """Scores query tokens by their contextual states and their rarity; `mean_one` makes weights of the scores.

        SumMaxSim_w(Q, D) = sum_i w_i max_j Q_i . D_j

    It is a module of its own beside the router's scores, because the two answer different questions. A token may count
    much and be a bad choice to search by alone.

    Args:
        hidden_size: width h of the token states.
        inner_size: width of the hidden layer.
    """

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.inner = nn.Linear(hidden_size, inner_size)
        self.score = nn.Linear(inner_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.prior_weight = nn.Parameter(torch.zeros(()))

    def forward(self, states: Tensor, prior: Tensor) -> Tensor:
        """(..., L) float32 logits from states (..., L, h) and the tokens' prior (..., L)."""
        inner = nn.functional.gelu(self.inner(self.norm(states.to(self.score.weight.dtype))))
        scores: Tensor = self.score(inner).squeeze(-1).float()
        return scores + self.prior_weight.float() * prior.float()


def mean_one(logits: Tensor) -> Tensor:
    """Weights (L,) float32 with the mean 1 from the logits (L,) of one query: L * softmax(logits)."""
    return torch.softmax(logits.float(), dim=-1) * logits.shape[-1]
