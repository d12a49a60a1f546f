"""Every kind of checkpoint opens through from_pretrained, routes, and survives a save."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.explain import explain

QUERIES = ["what is the capital of france ?", "python import error", ""]
DOCUMENTS = ["paris is the capital of france .", "the largest city in the world", "? , ."]
FORMATS = ["plain-encoder", "sentence-transformer", "multi-vector", "pylate", "stanford"]
LATE_INTERACTION = ["multi-vector", "pylate", "stanford"]


def opened(path: Path) -> FastLaneModel:
    return FastLaneModel.from_pretrained(path, dtype="float32", device="cpu")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_opens_and_gives_unit_vectors(checkpoints: dict[str, Path], kind: str) -> None:
    """Shapes, norms and at least one token per text, also for texts of only skipped tokens."""
    model = opened(checkpoints[kind])
    assert model.dim == (16 if kind in LATE_INTERACTION else 32)
    for embeddings in model.encode_queries(QUERIES) + model.encode_documents(DOCUMENTS):
        assert embeddings.ndim == 2
        assert embeddings.shape[0] >= 1
        assert embeddings.shape[1] == model.dim
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


@pytest.mark.parametrize("kind", LATE_INTERACTION)
def test_embeddings_are_those_of_sentence_transformers(checkpoints: dict[str, Path], kind: str) -> None:
    """Adding routers and moving the scoring mask changes no embedding."""
    ours, theirs = opened(checkpoints[kind]), MultiVectorEncoder(str(checkpoints[kind]), device="cpu")
    for a, b in zip(ours.encode_queries(QUERIES[:2]), theirs.encode_query(QUERIES[:2]), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(ours.encode_documents(DOCUMENTS[:2]), theirs.encode_document(DOCUMENTS[:2]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["plain-encoder", "sentence-transformer"])
def test_a_plain_encoder_gets_no_random_projection(checkpoints: dict[str, Path], kind: str) -> None:
    """Opened twice, the same text gives the same vectors: nothing random was added."""
    first, second = opened(checkpoints[kind]), opened(checkpoints[kind])
    assert not any(isinstance(module, Dense) for module in first.encoder)
    torch.testing.assert_close(first.encode_queries(QUERIES)[0], second.encode_queries(QUERIES)[0])
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("kind", FORMATS)
def test_routing_leaves_padding_and_special_tokens_out(checkpoints: dict[str, Path], kind: str) -> None:
    """Short and long queries in one batch: only words are routed, and without a number all of them."""
    special = {"[CLS]", "[SEP]", "[PAD]", "[MASK]", "[unused0]"}
    for route in opened(checkpoints[kind]).route(QUERIES[:2], k=None):
        picked = [route.tokens[i] for i in route.selected]
        assert picked
        assert not special & set(picked)
        assert sorted(route.selected) == [i for i, score in enumerate(route.scores) if np.isfinite(score)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_saved_model_is_the_same_here_and_in_sentence_transformers(
    checkpoints: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Save and open again: same fingerprint, routes and vectors; no pickle; the plain library opens it too."""
    model = opened(checkpoints[kind])
    torch.nn.init.normal_(model.encoder.query_router.score.weight)
    model.save(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    assert again.fingerprint == model.fingerprint
    assert [r.selected for r in again.route(QUERIES, 3)] == [r.selected for r in model.route(QUERIES, 3)]
    plain = MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(plain.encode_document(DOCUMENTS[0]), model.encode_documents(DOCUMENTS)[0])
    suffixes = {file.suffix for file in (tmp_path / "saved").rglob("*") if file.is_file()}
    assert not suffixes & {".bin", ".pt", ".pkl", ".pickle"}


def test_an_encoder_object_is_wrapped_and_shares_its_weights(checkpoints: dict[str, Path]) -> None:
    """A loaded MultiVectorEncoder is used without loading it again."""
    encoder = MultiVectorEncoder(str(checkpoints["multi-vector"]), device="cpu")
    model = FastLaneModel.from_pretrained(encoder)
    assert model.encoder[0] is encoder[0]
    torch.testing.assert_close(model.encode_documents(DOCUMENTS)[0], encoder.encode_document(DOCUMENTS[0]))
    assert FastLaneModel.from_pretrained(model) is model


@pytest.mark.parametrize(
    "options",
    [{"document_budget": 4}, {"device": "cpu"}, {"dtype": "float32"}, {"trust_remote_code": True}, {"prompts": {}}],
)
def test_options_of_loading_are_refused_of_what_is_loaded(checkpoints: dict[str, Path], options: Any) -> None:
    """They were passed over without a word."""
    model = opened(checkpoints["multi-vector"])
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))}: no option of a model that is loaded already"):
        FastLaneModel.from_pretrained(model, **options)
    encoder = MultiVectorEncoder(str(checkpoints["multi-vector"]), device="cpu")
    if "document_budget" in options:
        budgeted = FastLaneModel.from_pretrained(encoder, **options)
        assert budgeted.document_budget == FastLaneModel.from_pretrained(budgeted, **options).document_budget == 4
    else:
        with pytest.raises(InvalidInputError, match="such as this MultiVectorEncoder"):
            FastLaneModel.from_pretrained(encoder, **options)


def test_a_new_router_keeps_the_fingerprint_and_new_weights_change_it(checkpoints: dict[str, Path]) -> None:
    """An index accepts a model with retrained routers, but not another encoder."""
    base, routed, changed = (opened(checkpoints["multi-vector"]) for _ in range(3))
    torch.nn.init.normal_(routed.encoder.query_router.score.weight)
    with torch.no_grad():
        next(m for m in changed.encoder if isinstance(m, Dense)).linear.weight.add_(0.5)
    assert routed.fingerprint == base.fingerprint
    assert changed.fingerprint != base.fingerprint


def test_a_path_that_is_no_model_says_so(tmp_path: Path) -> None:
    """The message names the path and the valid kinds of models."""
    with pytest.raises(ModelError, match="nowhere"):
        FastLaneModel.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty"):
        FastLaneModel.from_pretrained(tmp_path / "empty")


def test_foreign_code_is_not_run_unless_asked_for(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint whose module list names a class of its own is refused."""
    model = opened(checkpoints["multi-vector"])
    model.save(tmp_path / "evil")
    listing = tmp_path / "evil" / "modules.json"
    listing.write_text(
        listing.read_text().replace("sentence_transformers.base.modules.normalize.Normalize", "os.path.X")
    )
    assert "os.path.X" in listing.read_text()
    with pytest.raises(ModelError, match="trust_remote_code"):
        opened(tmp_path / "evil")


@pytest.mark.parametrize("kind", FORMATS)
def test_routed_tokens_are_in_their_place_whatever_the_encoder_adds(checkpoints: dict[str, Path], kind: str) -> None:
    """A marker before the query does not hide where its tokens are, as it once did for ColBERT checkpoints."""
    query = "capital of france ?"
    [route] = opened(checkpoints[kind]).route([query], None)
    places = {token: query[slice(*span)] for token, span in zip(route.tokens, route.spans, strict=True)}
    assert {token for token in places if places[token] == token} >= {"capital", "france"}
    assert {place for token, place in places.items() if token.startswith("[")} <= {""}


@pytest.mark.parametrize("kind", FORMATS)
def test_evidence_is_in_its_place_whatever_the_encoder_adds(checkpoints: dict[str, Path], kind: str) -> None:
    """Prefixes, markers and expansion masks shift tokens; the spans are those of the text all the same."""
    text = "paris , the capital ; is the largest city in france , and the capital of the river"
    explanation = explain(opened(checkpoints[kind]), "capital of france ?", text)
    words = text.split()
    for match in explanation.tokens:
        if match.span is not None:
            assert text[slice(*match.span)] == match.matched
            assert match.matched in words
    assert explanation.spans
    (document,) = opened(checkpoints[kind]).encode_documents([text])
    (query,) = opened(checkpoints[kind]).encode_queries(["capital of france ?"])
    expected = (query @ document.T).max(dim=1).values
    assert [match.similarity for match in explanation.tokens] == pytest.approx(expected.tolist(), abs=1e-4)
