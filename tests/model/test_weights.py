"""Weights of query tokens: what the router gives, and what it costs an index."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from fastlane_rag import FastLaneModel
from fastlane_rag.model import QueryRouter

QUESTIONS = ["why does Python have no switch statement before version 3.10?", "GIL", "when was print made a function?"]


@pytest.fixture(scope="module")
def weighted(model: FastLaneModel) -> FastLaneModel:
    """The bundled model in float32, its router with weights drawn at random."""
    made = FastLaneModel(copy.deepcopy(model.encoder).float())
    torch.manual_seed(3)
    router = made.encoder.query_router
    router.give_weights(16)
    assert router.token_weights is not None
    router.token_weights.score.weight.data.normal_()
    router.token_weights.prior_weight.data.fill_(0.2)
    return made


def test_weights_are_a_softmax_of_states_and_rarity_with_the_mean_one(weighted: FastLaneModel) -> None:
    """Compared with the formula in double precision, over the tokens that are scored: the question mark is not."""
    router = copy.deepcopy(weighted.encoder.query_router).double()
    head = router.token_weights
    for question, query in zip(QUESTIONS, weighted.encode_routed(QUESTIONS), strict=True):
        assert "?" not in query.tokens
        features = weighted.encoder.preprocess([question], prompt="", task="query")
        ids = weighted.encoder.tokenizer.convert_tokens_to_ids(query.tokens)
        scored = [i for i, one in enumerate(features["input_ids"][0].tolist()) if one in ids]
        with torch.inference_mode():
            states = weighted.encoder.token_states(features, "query")[0][scored].double()
            inner = torch.nn.functional.gelu(head.inner(head.norm(states)))
            logits = head.score(inner)[:, 0] + 0.2 * router.prior[ids]
        expected = logits.exp() / logits.exp().sum() * len(ids)
        torch.testing.assert_close(query.weights.double(), expected, atol=1e-4, rtol=1e-3)
        assert float(query.weights.mean()) == pytest.approx(1)
        assert float(query.weights.std()) > 0.05


def test_weights_are_alike_alone_and_in_a_batch(weighted: FastLaneModel) -> None:
    """Alone they are computed when asked for, before or after the router's scores."""
    for question, together in zip(QUESTIONS, weighted.encode_routed(QUESTIONS), strict=True):
        first, later = (weighted.encode_routed([question])[0] for _ in range(2))
        later.select(1), later.views
        for alone in (first, later):
            torch.testing.assert_close(alone.weights, together.weights, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(first.scores, together.scores, atol=1e-3, rtol=1e-3)


def test_a_router_without_weights_counts_all_tokens_the_same(checkpoints: dict[str, Path]) -> None:
    model = FastLaneModel.from_pretrained(checkpoints["multi-vector"])
    router = model.encoder.query_router
    (query,) = model.encode_routed(["what is the capital of france"])
    assert query.weights.tolist() == [1.0] * len(query.tokens)
    with pytest.raises(ValueError, match="no weights: make it with weights_size"):
        router.weight_logits(torch.zeros(1, 2, 32), None)
    router.give_weights(8)
    (query,) = model.encode_routed(["what is the capital of france"])
    assert query.weights.tolist() == pytest.approx([1.0] * len(query.tokens))  # untrained


def test_saved_weights_open_again_and_leave_every_index_valid(weighted: FastLaneModel, tmp_path: Path) -> None:
    """The fingerprint is of what encodes documents. sentence-transformers opens the folder without the router."""
    plain = FastLaneModel(copy.deepcopy(weighted.encoder))
    plain.encoder.query_router.weights_size, plain.encoder.query_router.token_weights = 0, None
    assert weighted.fingerprint == plain.fingerprint
    weighted.save(tmp_path / "model")
    opened = FastLaneModel.from_pretrained(tmp_path / "model", dtype="float32", backend="torch")
    assert opened.encoder.query_router.weights_size == 16
    for one, other in zip(opened.encode_routed(QUESTIONS), weighted.encode_routed(QUESTIONS), strict=True):
        torch.testing.assert_close(one.weights, other.weights, atol=1e-4, rtol=1e-4)
    assert MultiVectorEncoder(str(tmp_path / "model")).encode_query(QUESTIONS[0]).shape[1] == weighted.dim


def test_a_query_is_pickled_with_its_weights(weighted: FastLaneModel) -> None:
    (query,) = weighted.encode_routed(QUESTIONS[:1])
    assert torch.equal(pickle.loads(pickle.dumps(query)).weights, query.weights)


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="weights_size=-1 must not be negative"):
        QueryRouter(hidden_size=24, inner_size=8, num_heads=2, weights_size=-1)
