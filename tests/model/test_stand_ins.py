"""The tokens that a document budget keeps, and the rows that stand for all tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane_rag.model import stand_ins as module
from fastlane_rag.model.stand_ins import IMPORTANCE, stand_ins

NEVER = float("-inf")


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def reference(rows: np.ndarray, scores: np.ndarray, count: int) -> tuple[list[int], np.ndarray]:
    """The greedy choice and its groups, written out for one document of which every token may be picked."""
    weights = np.exp(IMPORTANCE * (scores - scores.mean()) / max(scores.std(), 1e-6))
    similar = np.maximum(rows @ rows.T, 0)
    chosen: list[int] = []
    for _ in range(count):
        value = [
            -1.0 if j in chosen else float((weights * similar[:, [*chosen, j]].max(1)).sum()) for j in range(len(rows))
        ]
        chosen.append(int(np.argmax(value)))
    stored = np.zeros_like(rows)
    for i, row in enumerate(rows):
        owner = i if i in chosen else max(sorted(chosen), key=lambda j: similar[i, j])
        stored[owner] += weights[i] * row
    chosen.sort()
    return chosen, stored[chosen] / np.linalg.norm(stored[chosen], axis=1, keepdims=True)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@settings(deadline=None)
@given(length=st.integers(1, 14), count=st.integers(1, 16), seed=st.integers(0, 10_000))
def test_the_greedy_choice_and_its_groups(compiled: bool, length: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = unit(torch.randn(1, length, 8, generator=generator, dtype=torch.float64))
    scores = torch.randn(1, length, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.kernels, "available", lambda: compiled)
        picked, stored = stand_ins(rows, scores, count)
    chosen, expected = reference(rows[0].numpy(), scores[0].double().numpy(), min(count, length))
    assert picked[0].nonzero()[:, 0].tolist() == chosen
    np.testing.assert_allclose(stored[0][picked[0]], expected, atol=1e-5)


@pytest.mark.parametrize(("budget", "kept"), [(1, 1), (3, 3), (0.5, 5), (1 / 3, 3), (50, 9)])
def test_counts_shares_and_budgets_above_the_length(budget: float, kept: int) -> None:
    """Shares are rounded up. Tokens that may not be picked neither count nor are picked."""
    rows = unit(torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(1)))
    scores = torch.arange(10.0).masked_fill(torch.arange(10) == 9, NEVER).expand(2, 10)
    picked, stored = stand_ins(rows, scores, budget)
    assert picked.sum(1).tolist() == [kept, kept]
    assert not picked[:, 9].any()
    torch.testing.assert_close(stored.norm(dim=-1), torch.ones(2, 10))


def test_a_document_is_condensed_alike_whatever_is_beside_it() -> None:
    """Padding and tokens that may not be picked change nothing; a document without tokens keeps none."""
    generator = torch.Generator().manual_seed(2)
    long, short = unit(torch.randn(1, 9, 4, generator=generator)), unit(torch.randn(1, 5, 4, generator=generator))
    scores = torch.randn(3, 9, generator=generator)
    scores[1, 5:] = scores[2] = NEVER
    batch = torch.cat([long, torch.cat([short, unit(torch.ones(1, 4, 4))], 1), long])
    picked, stored = stand_ins(batch, scores, 3)
    alone, row = stand_ins(short, scores[1:2, :5], 3)
    assert picked.sum(1).tolist() == [3, 3, 0]
    assert picked[1, :5].tolist() == alone[0].tolist()
    torch.testing.assert_close(stored[1][picked[1]], row[0][alone[0]])


def test_a_full_budget_changes_nothing() -> None:
    rows = unit(torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3)))
    picked, stored = stand_ins(rows, torch.zeros(1, 6), 6)
    assert picked.all()
    torch.testing.assert_close(stored, rows)
