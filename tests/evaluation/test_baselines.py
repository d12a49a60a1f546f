"""The methods FastLane is compared with, on real passages."""

import numpy as np
import pytest

from fastlane_rag.evaluation.baselines import Bm25, Dense

Passages = list[dict[str, str]]


def test_bm25_finds_the_passage_with_the_words(passages: Passages) -> None:
    bm25 = Bm25([p["id"] for p in passages], [p["title"] + "\n" + p["text"] for p in passages])
    answer = bm25.answer("merge two dictionaries with the union operator", 10)
    assert len(answer.ids) == len(set(answer.ids)) == 10
    assert all(doc_id.startswith("pep584-") for doc_id in answer.ids[:3])
    assert answer.comparisons is None
    assert answer.search_seconds > 0


def test_bm25_answers_a_query_of_unknown_words(passages: Passages) -> None:
    bm25 = Bm25([p["id"] for p in passages[:20]], [p["text"] for p in passages[:20]])
    assert len(bm25.answer("zzzxq qqxzz", 5).ids) == 5
    assert len(bm25.answer("", 50).ids) == 20


class Encoder:
    """Gives the vectors it was told."""

    def encode_dense_queries(self, texts: list[str]) -> np.ndarray:
        return np.asarray([[float(number) for number in text.split()] for text in texts], np.float32)


def test_dense_ranks_by_cosine_with_ties_in_corpus_order() -> None:
    vectors = np.asarray([[0, 1], [1, 0], [0.6, 0.8], [1, 0]], np.float32)
    dense = Dense(Encoder(), ["a", "b", "c", "d"], vectors)  # type: ignore[arg-type]
    assert dense.answer("1 0", 4).ids == ["b", "d", "c", "a"]
    assert dense.answer("1 0", 2).ids == ["b", "d"]
    assert dense.answer("0 1", 3).ids == ["a", "c", "b"]
    assert dense.answer("1 0", 2).comparisons == 4
    assert dense.bytes_per_document == pytest.approx(8)
