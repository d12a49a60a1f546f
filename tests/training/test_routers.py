"""Training routers for a frozen checkpoint, on real passages without labels."""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sentence_transformers.base.modules import Transformer

from fastlane_rag import FastLaneModel
from fastlane_rag.cli import main
from fastlane_rag.data import Passage
from fastlane_rag.errors import DataError, ModelError
from fastlane_rag.training import train_router
from fastlane_rag.training.frozen import remembered_states
from fastlane_rag.training.routers import draw_queries


@pytest.fixture(scope="module")
def corpus(passages: list[dict[str, str]]) -> list[Passage]:
    return [Passage(p["id"], p["title"], p["text"]) for p in passages[:90]]


def test_routers_move_and_embeddings_stay(model: FastLaneModel, corpus: list[Passage], tmp_path: Path) -> None:
    """An index made before the training is served by the model after it."""
    fingerprint = model.fingerprint
    before = model.encode_queries(["how are type hints written?"])[0]
    start = FastLaneModel(copy.deepcopy(model.encoder))
    train_router(start, corpus, tmp_path, steps=4, most_queries=60, batch_size=8, threads=1)
    trained = FastLaneModel.from_pretrained(tmp_path / "model")
    assert trained.fingerprint == fingerprint
    torch.testing.assert_close(trained.encode_queries(["how are type hints written?"])[0], before)
    assert trained.encoder.query_router.score.weight.abs().sum() > 0
    assert trained.encoder.document_router.score.weight.abs().sum() > 0


def test_an_output_of_another_corpus_is_refused(model: FastLaneModel, corpus: list[Passage], tmp_path: Path) -> None:
    """It would have learned the ranking of the passages before, without a word."""

    def run(passages: list[Passage], **options: Any) -> None:
        start = FastLaneModel(copy.deepcopy(model.encoder))
        train_router(start, passages, tmp_path, steps=1, most_queries=40, batch_size=8, threads=1, **options)

    run(corpus[:40])
    before = (tmp_path / "pairs.jsonl").read_bytes()
    for other in (lambda: run(corpus[40:80]), lambda: run(corpus[:40], seed=5)):
        with pytest.raises(ModelError, match="another"):
            other()
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


def test_remembered_states_change_nothing_but_the_time(
    model: FastLaneModel, corpus: list[Passage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache for all states, for a few or for none gives the same routers; a larger cache encodes fewer texts."""
    trained, encoded = [], []
    compute = Transformer.forward

    def counting(self: Transformer, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        encoded[-1] += len(features["input_ids"])
        return compute(self, features, **kwargs)

    monkeypatch.setattr(Transformer, "forward", counting)
    for room in (1 << 30, 1 << 20, 0):
        remembering = partial(remembered_states, most_bytes=room)
        monkeypatch.setattr("fastlane_rag.training.trainer.remembered_states", remembering)
        start = FastLaneModel(copy.deepcopy(model.encoder).float())
        encoded.append(0)
        train_router(start, corpus[:25], tmp_path / str(room), steps=4, most_queries=30, batch_size=8, threads=1)
        trained.append(start.encoder.query_router.state_dict() | start.encoder.document_router.state_dict())
    assert encoded[0] < encoded[1] < encoded[2]
    for other in trained[1:]:
        for name, value in trained[0].items():
            torch.testing.assert_close(other[name], value, rtol=0.05, atol=2e-3, msg=name)


def test_the_ranking_is_full_sum_max_sim_and_is_kept(
    model: FastLaneModel, corpus: list[Passage], tmp_path: Path
) -> None:
    """Pairs hold what the model ranks first, without the passage a query was drawn from; a second run reuses them."""
    start = FastLaneModel(copy.deepcopy(model.encoder))
    train_router(start, corpus, tmp_path, steps=1, most_queries=40, batch_size=8, threads=1)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) >= 5
    for pair in pairs[:5]:
        query = model.encode_queries([pair["query"]])[0]
        documents = model.encode_documents([pair["pos"], *pair["neg"]])
        scores = [float((query @ d.T).amax(1).sum()) for d in documents]
        assert scores[0] >= max(scores[1:]) - 0.05
        assert all(pair["query"] not in text for text in [pair["pos"], *pair["neg"]])
    written = (tmp_path / "pairs.jsonl").stat().st_mtime_ns
    train_router(start, corpus, tmp_path, steps=1, most_queries=40, batch_size=8, threads=1)
    assert (tmp_path / "pairs.jsonl").stat().st_mtime_ns == written


def test_drawn_queries_are_titles_and_whole_sentences(corpus: list[Passage]) -> None:
    queries = draw_queries(corpus, 50, seed=3)
    assert len(queries) == 50
    assert queries == draw_queries(corpus, 50, seed=3)
    titles = {p.title for p in corpus}
    assert any(q in titles for q in queries)
    assert all(q in titles or any(q in p.text for p in corpus) for q in queries)


def test_too_little_text_is_said(model: FastLaneModel, corpus: list[Passage], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 queries and 90 passages are too few"):
        train_router(model, corpus, tmp_path, queries=["one", "two"])


def test_the_command_names_a_bad_query_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "some text"}\n')
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"text": "fine"}\n{"txt": "not"}\n')
    arguments = ["--model", "default", "--corpus", str(corpus), "--queries", str(queries), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(main, ["train-router", *arguments])
    assert result.exit_code == 1
    assert "line 2" in result.stderr
