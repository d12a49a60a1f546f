"""A projection that keeps a ranking: packed states, principal axes, and what training adds to them."""

import pytest
import torch

from fastlane_rag.training.projection import ProjectionLoss, Ranking, States, learn_projection, principal_axes


def packed(lengths: list[int], width: int, draw: torch.Generator, noise: torch.Tensor) -> States:
    """Random states whose spread over the dimensions is ``noise``."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    rows = torch.randn(int(offsets[-1]), width, generator=draw) * noise
    return States(rows.half(), torch.arange(int(offsets[-1])) % 7, offsets)


@pytest.fixture
def ranking() -> Ranking:
    """Forty queries, each a passage's tokens seen through the small dimensions; the large ones say nothing."""
    draw = torch.Generator().manual_seed(3)
    spread = torch.cat([torch.full((4,), 3.0), torch.ones(12)])
    documents = packed([6] * 40, 16, draw, spread)
    shaken = torch.randn(len(documents.rows), 16, generator=draw) * torch.cat([torch.full((4,), 3.0), torch.zeros(12)])
    queries = States((documents.rows.float() + shaken).half(), documents.ids, documents.offsets)
    near = [[[j for j in range(40) if j != i]] for i in range(40)]
    return Ranking(queries, documents, [[i] for i in range(40)], [True] * 40, near)


def test_tokens_are_left_out_and_a_text_keeps_one() -> None:
    """A text of nothing but what is left out keeps its first token."""
    states = States(torch.arange(5.0)[:, None], torch.tensor([1, 2, 3, 1, 1]), torch.tensor([0, 3, 5]))
    fewer = states.without([1])
    assert fewer.ids.tolist() == [2, 3, 1]
    assert fewer.offsets.tolist() == [0, 2, 3]
    rows, mask = fewer.padded([1, 0])
    assert mask.tolist() == [[True, False], [True, True]]
    assert rows[..., 0].tolist() == [[3.0, 0.0], [1.0, 2.0]]


def test_principal_axes_are_orthonormal(ranking: Ranking) -> None:
    """The leading axes are those of the largest spread."""
    axes = principal_axes([ranking.documents], 4)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4))
    assert axes[:, :4].square().sum() > 3.5


@pytest.mark.parametrize("term", ["ranking", "answer"])
def test_training_improves_on_the_axes(ranking: Ranking, term: str) -> None:
    """Each term falls from where the axes leave it, and the same seed gives the same projection."""
    only = ProjectionLoss(**{"ranking": 0.0, "tokens": 0.0, "answer": 0.0, term: 1.0})
    axes = principal_axes([ranking.documents], 4)
    seen: list[dict[str, float]] = []

    def learn(rate: float) -> torch.Tensor:
        return learn_projection(
            [ranking], axes, weights=only, steps=60, batch_size=8, learning_rate=rate,
            told=lambda _step, terms: seen.append(terms),
        )  # fmt: skip

    learned, again, _ = learn(0.05), learn(0.05), learn(0.0)
    torch.testing.assert_close(learned, again)
    assert seen[0][term] < 0.9 * seen[2][term]


def test_a_prefix_learns_to_serve_alone(ranking: Ranking) -> None:
    """The loss counts both widths, and training lowers it."""
    only = ProjectionLoss(ranking=1.0, tokens=0.0, answer=0.0)
    turned = principal_axes([ranking.documents], 4).flip(0)  # the smallest first: a poor prefix
    seen: list[float] = []

    def learn(prefixes: list[int], rate: float) -> torch.Tensor:
        return learn_projection(
            [ranking], turned, weights=only, steps=60, batch_size=8, learning_rate=rate, prefixes=prefixes,
            told=lambda _step, terms: seen.append(terms["ranking"]),
        )  # fmt: skip

    learn([2], 0.05)
    learn([2], 0.0)
    learn([], 0.0)
    assert seen[0] < 0.9 * seen[1]
    assert seen[1] > seen[2]
