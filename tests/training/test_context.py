"""Training routed tokens in context: gradients, cached gradients, and the model that is saved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import ModelError
from fastlane_rag.model.router import CONTEXT_MOST
from fastlane_rag.scoring import maxsim
from fastlane_rag.training import TrainConfig, train
from fastlane_rag.training.config import LossWeights, RoutingConfig
from fastlane_rag.training.loss import CachedRoutedLoss, RoutedLoss, RoutedTerms
from fastlane_rag.training.prepare import add_context, add_projection, fitted_axes

QUESTIONS = ["how to sort a list of records by two keys", "what is a PEP", "type hints"]
ANSWERS = ["sorted() takes a key function", "a proposal to change Python", "annotations of parameters"]


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory: pytest.TempPathFactory, model: FastLaneModel) -> Path:
    """A two-layer BERT with the default model's vocabulary."""
    folder = tmp_path_factory.mktemp("encoder")
    model.encoder.tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    width = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(model.encoder.tokenizer), **width)).save_pretrained(folder)
    return folder


def in_context(path: Path, *, trained: bool) -> FastLaneModel:
    """The encoder with a projection and a context; a trained one has shifts and weights of its own."""
    torch.manual_seed(4)
    model = FastLaneModel.from_pretrained(path, dtype="float32")
    add_projection(model.encoder, fitted_axes(model.encoder, 16, ANSWERS))
    add_context(model.encoder, 8)
    torch.nn.init.normal_(model.encoder.query_router.score.weight)
    if trained:
        for parameter in model.encoder.query_router.context.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.encoder.train()
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.encoder.backbone.config.attention_probs_dropout_prob = 0.0
    return model


def batch(model: FastLaneModel) -> list[dict[str, Any]]:
    tasks = {"query": QUESTIONS, "document": ANSWERS}
    return [{**model.encoder.preprocess(texts, task=task), "task": task} for task, texts in tasks.items()]


def only(*names: str) -> LossWeights:
    return LossWeights(**{name: float(name in names) for name in LossWeights.model_fields})


@pytest.mark.parametrize("term", ["routed", "distill", "expected"])
@pytest.mark.parametrize("k", [1, 2])
def test_routed_terms_reach_a_fresh_context(encoder_path: Path, term: str, k: int) -> None:
    """All parameters that get a gradient while shifts are zero."""
    model = in_context(encoder_path, trained=False)
    terms = RoutedTerms(only(term), RoutingConfig(k={k: 1.0}), 20.0, seed=3)
    RoutedLoss(model.encoder, terms)(batch(model)).backward()
    context = model.encoder.query_router.context
    for name in ("weight.weight", "prior_weight", "log_share", "token_out.weight", "query_out.weight"):
        assert context.get_parameter(name).grad.abs().sum() > 0, name


def test_full_scores_stay_out_of_context(encoder_path: Path) -> None:
    """SumMaxSim of all tokens uses the plain embeddings."""
    model = in_context(encoder_path, trained=True)
    RoutedLoss(model.encoder, RoutedTerms(only("full"), RoutingConfig(), 20.0, seed=3))(batch(model)).backward()
    grads = [p.grad for p in model.encoder.query_router.context.parameters()]
    assert not any(g is not None and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("k", [1, 3, CONTEXT_MOST + 1])
def test_the_loss_scores_what_search_compares(encoder_path: Path, k: int) -> None:
    """Routed cross-entropy against RoutedQuery.compared and maxsim, query by query; one question has too few tokens.

    The loss routes the tokens of highest score, from which a search chooses those that cover the query.
    """
    model = in_context(encoder_path, trained=True)
    terms = RoutedTerms(only("routed"), RoutingConfig(k={k: 1.0}), 20.0, seed=3)
    loss = RoutedLoss(model.encoder, terms).eval()
    model.encoder.document_router.train()  # which scores documents only then
    with torch.no_grad():
        value = loss(batch(model))
    model.encoder.eval()
    documents = model.encode_documents(ANSWERS)
    expected = []
    for position, query in enumerate(model.encode_routed(QUESTIONS)):
        routable = int(torch.isfinite(query.scores).sum())
        rows = query.compared(torch.topk(query.scores, min(k, routable)).indices)
        scores = torch.cat([maxsim(rows, d, document_offsets=torch.tensor([0, len(d)]))[0] for d in documents])
        logits = 20.0 * scores / len(rows)
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(position)))
    assert float(value) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-4)


def test_the_expected_term_is_of_views_whatever_k_is_drawn(encoder_path: Path) -> None:
    """The term is the loss of routing one token, which is compared by its view."""
    model = in_context(encoder_path, trained=True)
    loss = RoutedLoss(model.encoder, RoutedTerms(only("expected"), RoutingConfig(k={3: 1.0}), 20.0, seed=3)).eval()
    model.encoder.document_router.train()
    with torch.no_grad():
        value = loss(batch(model))
    model.encoder.eval()
    documents = model.encode_documents(ANSWERS)
    expected = torch.zeros(())
    for position, query in enumerate(model.encode_routed(QUESTIONS)):
        maxima = torch.stack([(query.views @ d.T).max(1).values for d in documents], 1)
        of_token = -torch.log_softmax(20.0 * maxima, 1)[:, position]
        expected += (torch.softmax(query.scores, 0) * of_token).sum() / len(QUESTIONS)
    assert float(value) == pytest.approx(float(expected), abs=1e-4)


def test_caching_gradients_changes_nothing_in_context(encoder_path: Path) -> None:
    """Mini-batches of one text against the whole batch, and a loss that is scaled, as accumulation does."""
    results = []
    for cached in (False, True):
        model = in_context(encoder_path, trained=True)
        terms = RoutedTerms(LossWeights(anchor=0.0, anchor_tokens=0.0), RoutingConfig(k={2: 1.0}), 20.0, seed=3)
        loss = CachedRoutedLoss(model.encoder, terms, 1) if cached else RoutedLoss(model.encoder, terms)
        torch.manual_seed(9)
        value = loss(batch(model))
        (value / 2).backward()
        grads = {n: p.grad.clone() for n, p in model.encoder.named_parameters() if p.grad is not None}
        results.append((value.item(), grads))
    (plain, plain_grads), (cached_value, cached_grads) = results
    assert plain == pytest.approx(cached_value, rel=1e-4)
    assert plain_grads.keys() == cached_grads.keys()
    assert any(".context." in name for name in plain_grads)
    for name, grad in plain_grads.items():
        torch.testing.assert_close(grad, cached_grads[name], rtol=2e-3, atol=2e-5, msg=name)


def test_a_run_gives_the_router_a_context_that_opens_again(
    encoder_path: Path, tmp_path: Path, passages: list[dict[str, str]]
) -> None:
    """routing.context: the trained views are the opened model's, and its shifts have left zero."""
    titled = [p for p in passages if len(p["title"].split()) > 2][:24]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"query": p["title"], "pos": p["text"], "pos_id": p["id"]}) for p in titled))
    config = TrainConfig.model_validate(
        {
            "model": str(encoder_path),
            "output": tmp_path / "run",
            "dim": 16,
            "data": {"train": {"peps": {"path": pairs}}},
            "routing": {"context": 4},
            "batch_size": 8,
            "max_steps": 3,
            "document_length": 48,
            "precision": "float32",
            "threads": 1,
        }
    )
    trained = train(config)
    opened = FastLaneModel.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    context = opened.encoder.query_router.context
    assert context is not None
    assert context.token_in.out_features == 4
    assert context.token_out.weight.abs().sum() > 0
    trained.encoder.eval()
    for one, other in zip(trained.encode_routed(QUESTIONS), opened.encode_routed(QUESTIONS), strict=True):
        assert one.views is not None
        torch.testing.assert_close(one.views, other.views)


def test_a_context_of_another_rank_is_not_replaced(encoder_path: Path) -> None:
    """The context is trained already; the same rank, or 0, keeps it."""
    model = in_context(encoder_path, trained=True)
    kept = model.encoder.query_router.context
    add_context(model.encoder, 8)
    assert model.encoder.query_router.context is kept
    with pytest.raises(ModelError, match=r"routing.context is 5, .* of rank 8"):
        add_context(model.encoder, 5)
