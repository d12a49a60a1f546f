"""Findings about good indexes, and about indexes that were made bad on purpose."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.codecs.residual import ResidualCodec
from fastlane_rag.errors import FastLaneWarning
from fastlane_rag.evaluation.diagnosis import diagnose, gini
from fastlane_rag.model import RoutedQuery
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.types import Finding

DIM = 32
NUMBERS = np.random.default_rng(2).integers(0, 400, (40, 4))
QUESTIONS = [" ".join(f"word{n}" for n in numbers) for numbers in NUMBERS]


class Words:
    """Each word has a vector, plus a little of its context; the word with the highest number is routed first."""

    name, fingerprint, dim = "words", "words", DIM

    def __init__(self, position: int | None = None, noise: float = 0.3) -> None:
        self.position, self.noise = position, noise

    def _rows(self, text: str) -> torch.Tensor:
        rows = np.stack([np.random.default_rng(zlib.crc32(w.encode())).normal(size=DIM) for w in text.split()])
        rows = rows + self.noise * np.random.default_rng(zlib.crc32(text.encode())).normal(size=rows.shape)
        return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()

    def encode_documents(self, texts: Sequence[str], **_: Any) -> list[torch.Tensor]:
        return [self._rows(text) for text in texts]

    def encode_routed(self, texts: Sequence[str], **_: Any) -> list[RoutedQuery]:
        queries = []
        for text in texts:
            words = text.split()
            scores = torch.tensor([float(w.removeprefix("word") or 0) if w[-1].isdigit() else 0.0 for w in words])
            if self.position is not None:
                scores[self.position] = 1e6
            queries.append(RoutedQuery(self._rows(text), scores, words))
        return queries


def texts(count: int, *, words: int = 400) -> list[str]:
    generator = np.random.default_rng(1)
    return [" ".join(f"word{n}" for n in generator.integers(0, words, 20)) for _ in range(count)]


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FastLaneIndex]:
    """Makes an index in code of a few documents."""
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 1000)

    def make(documents: list[str], model: Any = None, codec: str = "residual8", **options: Any) -> FastLaneIndex:
        with FastLaneIndex.create(model=model or Words(), codec="fp16") as index:
            index.add(documents, [f"d{i}" for i in range(len(documents))])
            index.save(tmp_path / "coded", codec=codec, overwrite=True)
        return FastLaneIndex.open(tmp_path / "coded", model=model or Words(), **options)

    return make


def findings(index: FastLaneIndex, queries: Sequence[str] | None = QUESTIONS) -> dict[str, Finding]:
    return {finding.subject: finding for finding in diagnose(index, queries)}


def test_a_healthy_index_has_nothing_to_say(coded: Callable[..., FastLaneIndex]) -> None:
    with coded(texts(1200)) as index:
        found = findings(index)
    assert list(found) == ["routing", "coverage", "centroids", "quantisation", "candidates"]
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert found["quantisation"].figures["mean_cosine"] > 0.99
    assert found["quantisation"].figures["top_10_overlap"] > 0.9
    assert found["centroids"].figures["tokens"] == 1200 * 20
    assert 0 < found["centroids"].figures["gini"] < 0.6
    assert 0 <= found["candidates"].figures["changed_by_twice_as_many"] < 0.05
    assert found["candidates"].figures["of_exact_top_10"] > 0.9


def test_a_router_stuck_on_one_position_has_collapsed(coded: Callable[..., FastLaneIndex]) -> None:
    with coded(texts(60), Words(position=2)) as index:
        finding = findings(index)["routing"]
    assert finding.level == "trouble"
    assert "position 2 first in 100%" in finding.detail
    assert "train it again" in finding.detail


def test_documents_that_became_others_crowd_one_centroid(coded: Callable[..., FastLaneIndex]) -> None:
    """The codec was trained on other words than those added later, which are all nearest to one centroid."""
    with coded(texts(120)) as index:
        assert findings(index)["centroids"].level == "ok"
        index.add(["same " * 20] * 400, [f"new{i}" for i in range(400)])
        index.compact()
        finding = findings(index)["centroids"]
    assert finding.level == "warning"
    assert "compact(retrain=True)" in finding.detail
    assert finding.figures["largest_share"] > 0.1


def test_one_bit_costs_more_than_eight_and_foreign_rows_are_trouble(coded: Callable[..., FastLaneIndex]) -> None:
    documents = texts(300, words=5000)
    cosines = {}
    for codec in ("residual1", "residual8"):
        with coded(documents, codec=codec) as index:
            cosines[codec] = findings(index)["quantisation"].figures["mean_cosine"]
    assert cosines["residual1"] < 0.95 < cosines["residual8"]
    with coded(documents) as index:
        index._model = Words(noise=50.0)  # type: ignore[assignment]
        finding = findings(index)["quantisation"]
    assert finding.level == "trouble"
    assert "not this model's rows" in finding.detail


def test_rows_that_were_left_out_are_noticed(coded: Callable[..., FastLaneIndex]) -> None:
    class Half(Words):
        def encode_documents(self, texts: Sequence[str], **_: Any) -> list[torch.Tensor]:
            return [rows[: len(rows) // 2] for rows in super().encode_documents(texts)]

    with coded(texts(60)) as index:
        index._model = Half()  # type: ignore[assignment]
        finding = findings(index)["quantisation"]
    assert finding.level == "warning"
    assert "60 of 60 documents" in finding.detail
    assert "document_budget" in finding.detail


def test_too_few_candidates_are_noticed(coded: Callable[..., FastLaneIndex]) -> None:
    policy = SearchPolicy(refine_least=10, refine_factor=1, route_k=1)
    with coded(texts(1200), policy=policy) as index:
        finding = findings(index)["candidates"]
    assert finding.level in ("warning", "trouble")
    assert "the depth is too small" in finding.detail
    assert finding.figures["of_exact_top_10"] < 0.9


def test_a_check_that_fails_hides_no_other(
    coded: Callable[..., FastLaneIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(ResidualCodec, "decode", broken)
    with coded(texts(60)) as index:
        found = findings(index)
    assert found["quantisation"].detail == "could not be examined: OSError: disk gone"
    assert found["routing"].level == found["centroids"].level == "ok"


def test_an_empty_index_and_one_in_half_precision() -> None:
    with FastLaneIndex.create(model=Words()) as index:
        (finding,) = diagnose(index)
        assert (finding.level, finding.subject) == ("warning", "index")
        index.add(texts(20))
        found = findings(index, None)
    assert "no centroids" in found["centroids"].detail
    assert "every document is compared" in found["candidates"].detail
    assert found["routing"].figures["queries_are"] == "drawn from the documents"


def test_long_documents_and_small_budgets_are_noticed(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """Real tokens: one text of thousands of words among short ones; then two tokens a document."""
    short = [p["text"][:300] for p in passages[:9]]
    long = " ".join(p["text"] for p in passages[:40])
    with FastLaneIndex.create(model=model, max_document_tokens=512) as index:
        with pytest.warns(FastLaneWarning):
            index.add([*short, long])
        finding = findings(index, [p["title"] for p in passages[:12]])["coverage"]
    assert finding.level == "warning"
    assert "10% were cut at 512 tokens" in finding.detail
    assert finding.figures["share_of_tokens_cut"] > 0.5
    assert "max_document_tokens" in finding.detail
    with FastLaneIndex.create(model=model) as index:
        index.add([*short, long])
        finding = findings(index, [p["title"] for p in passages[:12]])["coverage"]
    assert finding.level == "ok"
    assert "none was cut" in finding.detail
    model.encoder.document_router.budget = 2
    try:
        with FastLaneIndex.create(model=model) as index:
            index.add(short)
            finding = findings(index, [p["title"] for p in passages[:12]])["coverage"]
    finally:
        model.encoder.document_router.budget = None
    assert finding.level == "warning"
    assert "document_budget" in finding.detail


def test_gini_of_equal_and_of_unequal_counts() -> None:
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.zeros(3, np.int64)) == 0
