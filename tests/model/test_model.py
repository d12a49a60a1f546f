"""The bundled default model through its public interface."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.model import RoutedQuery
from fastlane_rag.model.default import default_model_path
from fastlane_rag.scoring import maxsim

QUESTION = "Which PEP introduced the walrus operator?"


def test_the_default_model_finds_the_passage(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """A passage ranks first among others for its own title-like question."""
    texts = [
        "Assignment expressions allow assigning to variables within an expression using NAME := expr.",
        "This PEP describes how to format Python code, with four spaces of indentation.",
        "Decorators provide a syntax for transforming functions and methods.",
    ]
    queries = model.encode_queries(
        ["assign a variable inside an expression", "indentation of code", "what is a decorator"]
    )
    scores = torch.cat([torch.cat([maxsim(q, d[None]) for d in model.encode_documents(texts)], dim=1) for q in queries])
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_order_and_batching_do_not_change_embeddings(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """Results are in the order of the texts, however they were batched."""
    texts = [p["text"] for p in passages[:7]]
    together = model.encode_documents(texts, batch_size=3)
    for text, embeddings in zip(texts, together, strict=True):
        alone = model.encode_documents([text])[0]
        assert alone.shape == embeddings.shape
        assert (alone * embeddings).sum(1).min() > 0.995


def test_long_queries_are_cut_and_empty_ones_are_valid(model: FastLaneModel) -> None:
    """Nothing crashes, and there is always a token to search with."""
    long, empty = model.encode_routed(["retrieval " * 5000, ""])
    assert 1 <= len(long.tokens) <= model.max_query_length
    assert len(empty.tokens) >= 1
    assert len(empty.select(4)) >= 1
    assert model.encode_queries([]) == []


def test_routes_name_tokens_and_their_place_in_the_text(model: FastLaneModel) -> None:
    """Spans cut the routed words out of the query."""
    route = model.route(QUESTION, k=3)[0]
    assert len(route.selected) == 3
    for position in route.selected:
        start, end = route.spans[position]
        assert QUESTION[start:end].lower() == route.tokens[position].removeprefix("##")


def test_select_takes_k_auto_and_none(model: FastLaneModel) -> None:
    """k above the length takes all, auto takes some, and best comes first."""
    query = model.encode_routed([QUESTION])[0]
    everything = query.select(None).tolist()
    assert query.select(2).tolist() == everything[:2]
    assert query.select(10_000).tolist() == everything
    assert 1 <= len(query.select("auto")) <= len(everything)
    assert "?" not in query.tokens  # prose punctuation is not scored; markers are, but never routed
    assert {"[CLS]", "[SEP]"} & {query.tokens[i] for i in everything} == set()
    assert {"[CLS]", "[SEP]"} <= set(query.tokens)


def test_a_query_alone_asks_no_router_where_there_is_nothing_to_choose(
    model: FastLaneModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores computed on demand equal those of a batch, and may be changed."""
    together, _ = model.encode_routed([QUESTION, "short"])
    (alone,) = model.encode_routed([QUESTION])
    routable = together.select(None).tolist()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.encoder.query_router), "_attended", lambda *_: pytest.fail("the router was asked"))
        for k in (len(routable), 100):
            assert alone.select(k, ordered=False).tolist() == sorted(routable)
    assert alone.select(3, ordered=False).tolist() == routable[:3]
    assert alone.select(100).tolist() == routable
    torch.testing.assert_close(alone.scores, together.scores, atol=0.1, rtol=0.05)  # bfloat16, if the processor has it
    alone.scores[routable[:-1]] = -torch.inf
    assert alone.select(1).tolist() == routable[-1:]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_auto_takes_more_tokens_the_more_alike_their_scores_are(scale: float) -> None:
    """The choice of k="auto" does not depend on the scale of the router's scores; a single token is taken."""

    def taken(scores: list[float]) -> int:
        rows = torch.nn.functional.normalize(torch.ones(len(scores), 4), dim=1)
        return len(RoutedQuery(rows, scale * torch.tensor(scores), ["t"] * len(scores)).select("auto"))

    assert taken([3.0]) == 1
    assert taken([1.0] * 10) == 8
    assert taken([1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) < taken([float(n) for n in range(10)]) < 8


@pytest.mark.parametrize("k", [0, -2, 1.5, True, "all"])
def test_a_senseless_k_is_refused(model: FastLaneModel, k: object) -> None:
    """The message shows the value."""
    with pytest.raises(ValueError, match=f"not {k!r}"):
        model.encode_routed([QUESTION])[0].select(k)  # type: ignore[arg-type]


def test_texts_must_be_a_list_of_strings(model: FastLaneModel) -> None:
    """One string alone would be encoded letter by letter."""
    with pytest.raises(InvalidInputError, match="put a single value into"):
        model.encode_queries("one string")
    with pytest.raises(InvalidInputError, match=r"texts\[1\] must be str, not int 7"):
        model.encode_documents(["fine", 7])  # type: ignore[list-item]
    for encode in (model.encode_queries, model.encode_documents, model.encode_routed, model.route):
        with pytest.raises(InvalidInputError, match=r"texts\[0\] holds half of a surrogate pair"):
            encode(["\ud800"])
        with pytest.raises(InvalidInputError, match="texts must be a list, not NoneType"):
            encode(None)  # type: ignore[arg-type]


def test_texts_may_come_from_a_generator(model: FastLaneModel) -> None:
    """Checking them used them up, and nothing was encoded."""
    for encode in (model.encode_queries, model.encode_documents, model.encode_routed, model.route):
        assert len(encode(text for text in ("one", "two"))) == 2  # type: ignore[arg-type]


def test_a_model_is_saved_to_a_path(model: FastLaneModel) -> None:
    """It went to a directory called None."""
    with pytest.raises(InvalidInputError, match="path must be that of a directory"):
        model.save(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["tpu", "", "CPU", ["cpu"]])
def test_a_device_that_torch_does_not_know_is_named(device: object) -> None:
    """The message speaks of the device, not of the model."""
    with pytest.raises(InvalidInputError, match="device must be 'cpu'") as told:
        FastLaneModel.from_pretrained(device=device)  # type: ignore[arg-type]
    assert str(told.value).endswith(repr(device))


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "2"])
def test_a_senseless_batch_size_is_refused(model: FastLaneModel, batch_size: object) -> None:
    """The message shows the value."""
    for encode in (model.encode_documents, model.encode_queries, model.encode_dense_documents):
        with pytest.raises(InvalidInputError, match=f"batch_size must be a whole number from 1.*{batch_size!r}"):
            encode(["fine"], batch_size=batch_size)  # type: ignore[operator]
    assert len(model.encode_documents(["fine", "and well"], batch_size=np.int64(1))) == 2  # type: ignore[arg-type]


def test_dense_baseline_is_unit_length(model: FastLaneModel) -> None:
    """One vector per text, of the encoder's own width."""
    vectors = model.encode_dense_documents(["a passage", "a much longer passage about retrieval"])
    assert vectors.shape == (2, model.encoder.transformer.get_embedding_dimension())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_the_default_model_needs_no_network_and_no_second_unpacking(tmp_path: Path) -> None:
    """A process without a cache unpacks once; two at the same time agree."""
    script = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('network use')\n"
        "socket.socket.connect = refuse\n"
        "from fastlane_rag import FastLaneModel\n"
        "print(FastLaneModel.from_pretrained().fingerprint)\n"
    )
    environment = {**os.environ, "FASTLANE_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", script]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    prints = {run.communicate(timeout=600)[0].strip() for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(prints) == 1
    assert [p.name for p in tmp_path.iterdir()] == [default_model_path().name]
