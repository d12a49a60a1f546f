"""Which query tokens are routed: the greedy cover, and that no simpler choice ranks real passages better."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from fastlane_rag import FastLaneModel
from fastlane_rag.model import RoutedQuery
from fastlane_rag.model.selection import cover, needs
from fastlane_rag.scoring import token_maxima

KS = (1, 2, 4, 8)


def unit_rows(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "k"), [(1, 1), (5, 3), (12, 8), (40, 40)])
def test_the_cover_is_greedy_by_its_definition(count: int, k: int) -> None:
    """Against loops in float64; every token competes once."""
    rows, need = unit_rows(count), np.random.default_rng(1).random(count).astype(np.float32)
    order = np.random.default_rng(2).permutation(count)
    chosen = cover(rows, need, order, k).tolist()
    assert len(set(chosen)) == k
    alike = np.maximum(rows.astype(np.float64) @ rows.T.astype(np.float64), 0) ** 2

    def worth(tokens: list[int]) -> float:
        return math.fsum(need[i] * max(alike[i, j] for j in tokens) for i in range(count))

    for step in range(k):
        taken = chosen[:step]
        best = max(worth([*taken, j]) for j in range(count) if j not in taken)
        assert worth([*taken, chosen[step]]) == pytest.approx(best, rel=1e-5)


def test_the_second_token_adds_what_the_first_lacks() -> None:
    """Two tokens of highest score that say the same: one of them, and the other thing the query asks for."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.995, 0.0999, 0.0], [0.0, 0.0, 1.0]])
    query = RoutedQuery(rows, torch.tensor([3.0, 2.9, 1.0]), ["fever", "temperature", "child"])
    assert set(query.select(2).tolist()) in ({0, 2}, {1, 2})


def test_tokens_that_may_not_be_routed_are_neither_needed_nor_chosen() -> None:
    scores = np.array([-np.inf, 1.0, 2.0, -np.inf], np.float32)
    found = needs(scores, np.array([9.0, 1.0, 1.0, 9.0], np.float32))
    assert found[[0, 3]].tolist() == [0, 0]
    assert found.sum() == pytest.approx(1)
    assert found[2] > found[1]
    query = RoutedQuery(torch.from_numpy(unit_rows(4)), torch.from_numpy(scores), list("abcd"))
    assert sorted(query.select(None).tolist()) == sorted(query.select(3).tolist()) == [1, 2]


def test_fewer_tokens_are_the_first_of_more(model: FastLaneModel) -> None:
    (query,) = model.encode_routed(["how are type hints of a decorator that keeps the signature written?"])
    everything = query.select(None).tolist()
    for k in range(1, len(everything)):
        assert query.select(k).tolist() == everything[:k]


@pytest.fixture(scope="module")
def ranked(model: FastLaneModel, passages: list[dict[str, str]]) -> dict[str, list[float]]:
    """Mean reciprocal rank of the passage below each heading, by 1, 2, 4 and 8 tokens of the heading alone."""
    pool = [p for p in passages if len(p["title"].split()) > 3][:250]
    rows = model.encode_documents([p["text"][:600] for p in pool])
    offsets = torch.tensor([0, *np.cumsum([len(r) for r in rows])])
    packed = torch.cat(rows)
    tokenizer, prior = model.encoder.tokenizer, model.encoder.query_router.prior
    seen = Counter(token for ids in tokenizer([p["text"] for p in pool])["input_ids"] for token in ids)
    draw = np.random.default_rng(3)
    found: dict[str, list[list[float]]] = {}
    headings = [
        p["title"].split(" > ")[-1] if len(p["title"].split(" > ")[-1].split()) > 3 else p["title"] for p in pool
    ]
    for number, query in enumerate(model.encode_routed(headings)):
        ids = torch.tensor(tokenizer.convert_tokens_to_ids(query.tokens))
        maxima = token_maxima(query.embeddings, packed, offsets)[0].numpy()
        routable = np.isfinite(query.scores.numpy())
        values = {
            "rarity": prior[ids].numpy(),
            "norm": query.norms.numpy(),
            "position": -np.arange(len(ids)),
            "random": draw.random(len(ids)),
            "collection": np.array([-seen[i] for i in ids.tolist()]),
        }
        orders = {
            n: np.argsort(-np.where(routable, v, -np.inf), kind="stable")[: routable.sum()] for n, v in values.items()
        }
        orders["router"] = query.select(None).numpy()
        for name, order in orders.items():
            sums = np.stack([maxima[:, order[:k]].sum(1) for k in KS])
            ranks = 1 + (sums > sums[:, number : number + 1]).sum(1)
            found.setdefault(name, []).append((1 / ranks).tolist())
    return {name: np.mean(one, axis=0).tolist() for name, one in found.items()}


@pytest.mark.parametrize("other", ["rarity", "norm", "position", "random", "collection"])
def test_no_simple_choice_ranks_better_than_the_router(ranked: dict[str, list[float]], other: str) -> None:
    """On the average over k, and at each k but for noise."""
    router, simple = ranked["router"], ranked[other]
    assert np.mean(router) > np.mean(simple), (ranked, other)
    for ours, theirs in zip(router, simple, strict=True):
        assert ours > theirs - 0.02, (ranked, other)
