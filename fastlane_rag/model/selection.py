"""Choosing query tokens that together stand for the query: the k-th adds what those before it lack.

A chosen token j stands for token i as far as the two are alike: by max(0, Q_i . Q_j)^2. Each step takes the token that
adds most to the sum over all tokens of need times the best likeness among those chosen. That is greedy maximisation of
a facility location function, which is within 1 - 1/e of the best choice (Nemhauser, Wolsey and Fisher, 1978).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["cover", "needs"]

_OF_SCORE, _OF_NORM = 0.3, 0.5
"""How much need follows the router's score and the norm of the token's state, both in standard deviations.

Chosen with the square above by nDCG@10 of 1, 2, 4 and 8 tokens on dev splits (docs/model.md).
"""

_ROUNDING = 1e-3
"""Smaller deviations, as shares of the largest value, are noise: states after a normalisation have norms that agree."""

_MOST = 64
"""Only so many tokens of highest score compete, so that a long query costs little."""


def needs(scores: NDArray[np.float32], norms: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """How much of a query each token carries, as shares of 1; 0 for tokens that may not be routed.

    Args:
        scores: (L,) router scores, ``-inf`` where a token may not be routed.
        norms: (L,) norms of the token states, where they are known.
    """
    routable = np.isfinite(scores)
    logits = _OF_SCORE * _standard(scores[routable])
    if norms is not None:
        logits += _OF_NORM * _standard(norms[routable])
    found = np.zeros(len(scores), np.float32)
    powers = np.exp(logits - logits.max(initial=-np.inf))
    found[routable] = powers / powers.sum()
    return found


def cover(rows: NDArray[np.float32], need: NDArray[np.float32], order: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of k tokens, in the order in which they are chosen.

    Args:
        rows: (L, dim) float32, L2-normalised token embeddings.
        need: (L,) from `needs`.
        order: (C,) the tokens to choose from, best score first; of equals the earlier one is chosen.
        k: how many, at most C.
    """
    candidates = order[: max(_MOST, k)]
    # By torch: numpy's matrix products bring threads of their own, which wait for each other where cores are busy.
    every = torch.from_numpy(rows)
    alike = np.square(np.maximum((every[candidates] @ every.T).numpy(), 0))
    covered = np.zeros(len(rows), np.float32)
    chosen = np.empty(k, np.int64)
    for step in range(k):
        gains = np.einsum("cl,l->c", np.maximum(alike - covered, 0), need)
        gains[chosen[:step]] = -1  # a token that is chosen already
        best = chosen[step] = int(gains.argmax())
        covered = np.maximum(covered, alike[best])
    return candidates[chosen]


def _standard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """In standard deviations from the mean; near 0 where all are equal but for rounding, which must not choose."""
    if not len(values):
        return values
    # By hand: numpy's own mean and deviation take ten times as long for so few numbers.
    centred: NDArray[np.float32] = values - values.sum() / len(values)
    deviation = math.sqrt(float(centred @ centred) / len(values))
    return centred / max(deviation, _ROUNDING * float(np.abs(values).max()), 1e-6)
