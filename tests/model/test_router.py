"""The routers: choice, masks, gradients, budgets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastlane_rag import FastLaneModel
from fastlane_rag.model import DocumentRouter, QueryRouter
from fastlane_rag.model.router import gumbel_top_k, vocabulary_prior

NEVER = float("-inf")


@given(
    st.lists(st.lists(st.floats(-20, 20), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 14),
    st.floats(0.05, 5),
    st.booleans(),
)
def test_a_choice_is_exactly_k_ones_among_the_candidates(
    rows: list[list[float]], k: int, temperature: float, noise: bool
) -> None:
    """The forward pass gives exact zeros and ones for any scores, noise and padding."""
    width = max(map(len, rows))
    scores = torch.tensor([row + [NEVER] * (width - len(row)) for row in rows])
    z = gumbel_top_k(scores, k, temperature, noise=noise)
    assert set(z.unique().tolist()) <= {0.0, 1.0}
    assert z.sum(1).tolist() == [float(min(k, len(row))) for row in rows]
    assert not z[~torch.isfinite(scores)].any()


def test_the_backward_pass_is_that_of_the_softmax() -> None:
    """Straight-through: the gradient of z is the gradient of p."""
    scores = torch.tensor([[1.0, 3.0, 2.0, NEVER]], requires_grad=True)
    value = torch.tensor([[0.3, 0.1, 0.9, 5.0]])
    (gumbel_top_k(scores, 1, 0.7, noise=False) * value).sum().backward()
    expected = torch.tensor([[1.0, 3.0, 2.0, NEVER]], requires_grad=True)
    (torch.softmax(expected / 0.7, 1) * value).sum().backward()
    torch.testing.assert_close(scores.grad, expected.grad)


def test_low_temperature_without_noise_picks_the_best() -> None:
    """The limit of annealing is the plain top-k of inference."""
    scores = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    z = gumbel_top_k(scores, 3, 0.01, noise=False)
    assert torch.equal(z.topk(3).indices.sort().values, scores.topk(3).indices.sort().values)


def test_noise_explores() -> None:
    """With Gumbel noise equal scores are picked about equally often."""
    torch.manual_seed(0)
    picks = sum(gumbel_top_k(torch.zeros(400, 4), 1, 1.0) for _ in range(5)).sum(0) / 2000
    assert picks.tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_a_temperature_of_zero_is_refused() -> None:
    """A temperature of 0 would divide by zero."""
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        gumbel_top_k(torch.zeros(1, 2), 1, 0)


def test_padding_changes_no_score() -> None:
    """A text alone and the same text beside a longer one are scored alike."""
    torch.manual_seed(1)
    router = QueryRouter(hidden_size=24, inner_size=8, num_heads=2)
    torch.nn.init.normal_(router.score.weight)
    states = torch.randn(1, 5, 24)
    alone = router.score_tokens(states, torch.ones(1, 5, dtype=torch.bool), None)
    padded = torch.cat([states, torch.randn(1, 4, 24)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 4])
    beside = router.score_tokens(padded, mask, None)
    torch.testing.assert_close(beside[:, :5], alone)
    assert torch.isinf(beside[:, 5:]).all()


@pytest.mark.parametrize("ids", [[1, 5, 7, 6, 2], [1, 2]], ids=["a text", "nothing but special tokens"])
@pytest.mark.parametrize("route_special_tokens", [False, True])
def test_a_text_alone_is_scored_as_in_a_batch(ids: list[int], route_special_tokens: bool) -> None:
    torch.manual_seed(0)
    router = QueryRouter(16, 8, 2, vocabulary_size=10, route_special_tokens=route_special_tokens)
    router.set_prior(torch.rand(10))
    torch.nn.init.normal_(router.score.weight)
    router._special_ids = torch.tensor([0, 1, 2])
    states, tokens = torch.randn(len(ids), 16), torch.tensor(ids)
    scores, attended = router.score_text(states, tokens)
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    torch.testing.assert_close(scores, router.score_tokens(states[None], mask, tokens[None])[0])
    assert attended.shape == (len(ids), 8)
    assert torch.isfinite(scores).nonzero().flatten().tolist() == router.routable(ids)


def test_an_untrained_router_ranks_by_rarity(model: FastLaneModel) -> None:
    """With its attention weights at zero the ranking is the prior's."""
    router = QueryRouter(hidden_size=24, vocabulary_size=4)
    router.set_prior(torch.tensor([0.0, 3.0, 1.0, 2.0]))
    scores = router.score_tokens(
        torch.randn(1, 4, 24), torch.ones(1, 4, dtype=torch.bool), torch.tensor([[2, 1, 0, 3]])
    )
    assert scores.argsort(descending=True).tolist() == [[1, 3, 0, 2]]


def test_vocabulary_prior_grows_with_rank_and_ignores_marks() -> None:
    """The prior grows with the rank; single characters and reserved entries have 0."""
    prior = vocabulary_prior(["[PAD]", "!", "a", "the", "##ing", "zygote", "<s>", "Ġrare"])
    assert prior[[0, 1, 2, 6]].tolist() == [0.0] * 4
    assert prior[[3, 4, 5, 7]].diff().min() > 0


@pytest.mark.parametrize("budget", [np.int64(4), np.float32(0.5)])
def test_a_number_of_numpy_is_a_budget(budget: object) -> None:
    router = DocumentRouter(hidden_size=8, inner_size=4, num_heads=1, budget=budget)  # type: ignore[arg-type]
    assert router.budget in (4, 0.5)
    assert type(router.budget) in (int, float)  # it is written as JSON


@pytest.mark.parametrize("budget", [0, -1, 1.0, 1.5, True, "many"])
def test_a_senseless_budget_is_refused(budget: object) -> None:
    """The message shows the value."""
    with pytest.raises(ValueError, match="document budget must be"):
        DocumentRouter(hidden_size=8, inner_size=4, num_heads=1, budget=budget)  # type: ignore[arg-type]


def test_document_routing_shrinks_documents(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """Eight rows per document cover its tokens better than its first eight tokens do."""
    texts = [p["text"] for p in passages[:4]]
    whole = model.encode_documents(texts)
    router = model.encoder.document_router
    try:
        router.budget = 8
        routed = model.encode_documents(texts)
    finally:
        router.budget = None
    for full, few in zip(whole, routed, strict=True):
        assert len(few) == min(8, len(full))
        first = full[:8]
        assert (full @ few.T).max(1).values.mean() > (full @ first.T).max(1).values.mean() + 0.05
