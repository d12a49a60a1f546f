"""Routed tokens in context: their views, the rows to compare, and the effect on searches."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.model import QueryRouter, RoutedQuery
from fastlane_rag.model.router import CONTEXT_MOST

QUESTIONS = [
    "why does Python have no switch statement before version 3.10",
    "GIL",
    "how are type hints of a decorator that keeps the signature of what it wraps written",
    "when was print made a function?",
]


def drawn_router(**options: int) -> QueryRouter:
    """A small router with a prior and random parameters of its context."""
    torch.manual_seed(1)
    router = QueryRouter(hidden_size=24, inner_size=8, num_heads=2, vocabulary_size=30, **options)
    router.set_prior(torch.rand(30) * 5)
    for parameter in router.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return router.eval()


def routed(router: QueryRouter, states: Tensor, mask: Tensor, ids: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return router({"token_embeddings": states, "attention_mask": mask, "input_ids": ids}, task="query")


def test_views_equal_a_reference_in_double_precision() -> None:
    """Weights, shifts and views, compared with loops over tokens; all views have unit length."""
    router = drawn_router(context_dim=16, context_rank=6)
    states, ids = torch.randn(1, 7, 24), torch.randint(0, 30, (1, 7))
    embeddings = torch.nn.functional.normalize(torch.randn(1, 7, 16), dim=-1)
    mask = torch.ones(1, 7, dtype=torch.bool)
    features = routed(router, states, mask, ids)
    with torch.inference_mode():
        views = router.views(embeddings, features)[0]
        found, _ = router.context(features["routing_attended"], features["routing_pooled"], mask, router.prior[ids])

    double = copy.deepcopy(router).double()
    c, gelu = double.context, torch.nn.functional.gelu
    with torch.inference_mode():
        attended = double._attended(states.double(), mask)[0]
        logits = attended @ c.weight.weight[0] + c.prior_weight * double.prior[ids[0]]
        weights = logits.exp() / logits.exp().sum()
        mean = sum(w * q for w, q in zip(weights, embeddings[0].double(), strict=True))
        pooled = states[0].double().sum(0)
        pooled = pooled / pooled.norm() * 24**0.5
        shift = c.query_out.weight @ gelu(c.query_in.weight @ pooled + c.query_in.bias)
        share = c.log_share.exp()
        for token in range(7):
            own = c.token_out.weight @ gelu(c.token_in.weight @ attended[token] + c.token_in.bias)
            view = embeddings[0, token].double() + share * mean / mean.norm() + share * shift + own
            torch.testing.assert_close(views[token].double(), view / view.norm(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0].double(), weights, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(views.norm(dim=1), torch.ones(7))


def test_padding_leaks_into_no_view() -> None:
    """The values of masked rows change no weight, shift or view."""
    router = drawn_router(context_dim=16, context_rank=6)
    states, ids = torch.randn(1, 5, 24), torch.randint(0, 30, (1, 5))
    alone = routed(router, states, torch.ones(1, 5, dtype=torch.bool), ids)
    mask = torch.tensor([[True] * 5 + [False] * 4])
    padded = torch.cat([states, 50 * torch.randn(1, 4, 24)], 1)
    more = torch.cat([ids, torch.randint(0, 30, (1, 4))], 1)
    beside = routed(router, padded, mask, more)

    def context(features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        prior = router.prior[features["input_ids"]]
        known = features["routing_attended"], features["routing_pooled"], features["attention_mask"], prior
        with torch.inference_mode():
            return router.context(*known)

    (weights, shifts), (own_weights, own_shifts) = context(beside), context(alone)
    torch.testing.assert_close(weights[:, :5], own_weights)
    torch.testing.assert_close(shifts[:, :5], own_shifts)
    assert not weights[:, 5:].any()
    embeddings = torch.nn.functional.normalize(torch.randn(1, 9, 16), dim=-1)
    with torch.inference_mode():
        views = router.views(embeddings, beside)[:, :5]
        torch.testing.assert_close(views, router.views(embeddings[:, :5], alone))


def test_the_bundled_model_views_a_query_alike_alone_and_in_a_batch() -> None:
    """One token beside twenty; in float32, so that the encoder itself does not differ."""
    model = FastLaneModel.from_pretrained(dtype="float32")
    for question, together in zip(QUESTIONS, model.encode_routed(QUESTIONS, batch_size=4), strict=True):
        (alone,) = model.encode_routed([question])
        assert alone.tokens == together.tokens
        torch.testing.assert_close(alone.views, together.views, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.views.norm(dim=1), torch.ones(len(alone.tokens)))
        assert (alone.views - alone.embeddings).norm(dim=1).min() > 0.1


def test_without_a_context_tokens_are_compared_as_they_are(checkpoints: dict[str, Path]) -> None:
    """Checkpoints without a context add no features for it."""
    model = FastLaneModel.from_pretrained(checkpoints["multi-vector"])
    assert model.encoder.query_router.context is None
    (query,) = model.encode_routed(["what is the capital of france"])
    assert query.views is None
    for k in (1, 2, None):
        selected = query.select(k)
        assert torch.equal(query.compared(selected), query.embeddings[selected])
    with pytest.raises(ValueError, match="no context: make it with context_dim"):
        model.encoder.query_router.views(query.embeddings[None], {})


@pytest.mark.parametrize("k", [1, 2, CONTEXT_MOST, CONTEXT_MOST + 1])
def test_each_of_k_tokens_takes_a_kth_of_the_rest(model: FastLaneModel, k: int) -> None:
    """One token is compared by its view, two by the middle of view and embedding, too many by their embeddings."""
    (query,) = model.encode_routed(QUESTIONS[2:3])
    selected = query.select(k)
    assert len(selected) == k
    assert query.in_context(k) is (k <= CONTEXT_MOST)
    own, view = query.embeddings[selected].double(), query.views[selected].double()
    mixed = own * (1 - 1 / k) + view / k if k <= CONTEXT_MOST else own
    torch.testing.assert_close(query.compared(selected).double(), mixed / mixed.norm(dim=1, keepdim=True))


def test_views_are_made_when_they_are_asked_for_and_once(model: FastLaneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many routed tokens are compared by their embeddings, and no view is computed."""
    router, made = model.encoder.query_router, []
    views = router.views
    monkeypatch.setattr(router, "views", lambda *args: made.append(1) or views(*args))
    (query,) = model.encode_routed(QUESTIONS[:1])
    query.compared(query.select(CONTEXT_MOST + 1))
    assert not made
    torch.testing.assert_close(query.compared(query.select(1)), query.views[query.select(1)])
    assert made == [1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_views_are_made_wherever_the_model_has_moved() -> None:
    """Views are computed on the router's device, and returned on the query's."""
    model = FastLaneModel.from_pretrained(device="cuda", dtype="float32")
    query, other = (model.encode_routed(QUESTIONS[:1])[0] for _ in range(2))
    expected = other.views
    model.encoder.cpu()
    assert query.views.device == query.embeddings.device == expected.device
    torch.testing.assert_close(query.views, expected, atol=1e-3, rtol=1e-3)


def test_a_query_is_pickled_with_its_views_and_without_the_model(model: FastLaneModel) -> None:
    """For other processes, by numbers alone."""
    (query,) = model.encode_routed(QUESTIONS[:1])
    data = pickle.dumps(query)
    again = pickle.loads(data)
    assert again.tokens == query.tokens
    for name in ("embeddings", "scores", "views"):
        assert torch.equal(getattr(again, name), getattr(query, name))
    assert len(data) < 100_000


def test_a_saved_context_opens_again(tmp_path: Path) -> None:
    """Config and weights, of the router alone and without a context."""
    router = drawn_router(context_dim=16, context_rank=6)
    router.save(str(tmp_path))
    opened = QueryRouter.load(str(tmp_path))
    assert (opened.context_dim, opened.context_rank) == (16, 6)
    assert opened.state_dict().keys() == router.state_dict().keys()
    for name, value in router.state_dict().items():
        assert torch.equal(opened.state_dict()[name], value), name
    (tmp_path / "plain").mkdir()
    drawn_router().save(str(tmp_path / "plain"))
    assert QueryRouter.load(str(tmp_path / "plain")).context is None


@pytest.mark.parametrize("options", [{"context_dim": -1}, {"context_dim": 16, "context_rank": 0}])
def test_senseless_context_sizes_are_refused(options: dict[str, int]) -> None:
    """The message shows the values."""
    with pytest.raises(ValueError, match=f"context_dim={options['context_dim']} must not be negative"):
        QueryRouter(hidden_size=24, inner_size=8, num_heads=2, **options)


@pytest.fixture(scope="module")
def texts(passages: list[dict[str, str]]) -> list[str]:
    """Bundled passages, spread over the sample."""
    return [p["text"] for p in passages[:: len(passages) // 48]][:48]


@pytest.fixture(scope="module")
def index(model: FastLaneModel, texts: list[str]) -> Iterator[FastLaneIndex]:
    """The passages in memory."""
    with FastLaneIndex.create(model=model) as made:
        made.add(texts, ids=[str(i) for i in range(len(texts))])
        yield made


@pytest.fixture(scope="module")
def documents(model: FastLaneModel, texts: list[str]) -> list[Tensor]:
    """The passages' token embeddings."""
    return model.encode_documents(texts)


@pytest.fixture(scope="module")
def queries(model: FastLaneModel) -> list[RoutedQuery]:
    """The questions, encoded once."""
    return model.encode_routed(QUESTIONS)


def brute_force(rows: Tensor, documents: list[Tensor]) -> dict[str, float]:
    return {str(i): float((rows @ d.float().T).max(1).values.sum()) for i, d in enumerate(documents)}


@pytest.mark.parametrize("k", [1, 2])
def test_unrefined_search_ranks_by_what_is_compared(
    index: FastLaneIndex, documents: list[Tensor], queries: list[RoutedQuery], k: int
) -> None:
    """Scores of every passage equal brute force over compared(); with all tokens routed, over the embeddings."""
    results = index.search_batch_detailed(queries, len(documents), route_k=k, refine=False)
    for query, result in zip(queries, results, strict=True):
        whole = len(query.tokens) <= k
        wanted = brute_force(query.embeddings if whole else query.compared(query.select(k)), documents)
        assert len(result.hits) == len(documents)
        assert [hit.score for hit in result.hits] == pytest.approx([wanted[hit.id] for hit in result.hits], abs=5e-3)


def test_refined_scores_are_of_the_plain_embeddings(
    index: FastLaneIndex, documents: list[Tensor], queries: list[RoutedQuery]
) -> None:
    """The context changes candidates, but not full SumMaxSim."""
    results = index.search_batch_detailed(queries, len(documents), route_k=1, weighted=False)
    for query, result in zip(queries, results, strict=True):
        wanted = brute_force(query.embeddings, documents)
        assert [hit.score for hit in result.hits] == pytest.approx([wanted[hit.id] for hit in result.hits], abs=3e-2)
        assert result.hits[0].score == pytest.approx(max(wanted.values()), abs=3e-2)
