"""Searches that weigh query tokens: scores in every lane, backend and codec, relevance, hybrid, explanations."""

import numpy as np
import pytest
import torch
from word_model import WordModel, embed, hybrid_scores, words

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.model import RoutedQuery
from fastlane_rag.rerank import relevances, rerank
from fastlane_rag.scoring.native import library
from fastlane_rag.upkeep import recode

QUERIES = ["type hints for function annotations", "the of and PEP 484", "one word"]


class WeighingWords(WordModel):
    """Long words weigh more."""

    def encode_routed(self, texts, *, batch_size=None):
        return [
            RoutedQuery(
                one.embeddings, one.scores, one.tokens, weights=torch.softmax(0.3 * one.scores, 0) * len(one.tokens)
            )
            for one in super().encode_routed(texts)
        ]


def weighted_score(query, document):
    """The sum of w_i max_j Q_i . D_j in float64, over rows as an index stores them."""
    lengths = np.array([len(word) for word in words(query)], np.float64)
    weights = np.exp(0.3 * lengths) / np.exp(0.3 * lengths).mean()
    return float(weights @ (embed(query).astype(np.float64) @ embed(document).astype(np.float16).T).max(1))


@pytest.fixture(scope="module")
def texts(passages):
    joined = " ".join(passage["text"] for passage in passages).split()
    return {f"{i:03}": " ".join(joined[25 * i : 25 * i + 25]) for i in range(300)}


@pytest.fixture(scope="module")
def plain(texts):
    """In half precision."""
    with FastLaneIndex.create(model=WeighingWords()) as index:
        index.add(list(texts.values()), list(texts))
        yield index


@pytest.fixture(scope="module")
def coded(texts):
    """In code."""
    with pytest.MonkeyPatch.context() as patch, FastLaneIndex.create(model=WeighingWords(), codec="residual8") as index:
        patch.setattr(recode, "TRAIN_TOKENS", 1000)
        index.add(list(texts.values()), list(texts))
        yield index


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize(
    "options", [{}, {"route_k": 2}, {"route_k": "all"}, {"route_k": "all", "refine": False}], ids=str
)
@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_weighted_maxima(plain, texts, query, options, native, monkeypatch):
    if not native:
        monkeypatch.setattr(library, "library", lambda: None)
    expected = {id_: weighted_score(query, text) for id_, text in texts.items()}
    hits = plain.search(query, 300, lane="exhaustive", **options)
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.id] for hit in hits], abs=2e-3)
    assert hits[0].score == pytest.approx(max(expected.values()), abs=2e-3)


@pytest.mark.parametrize("lane", ["exhaustive", "approximate"])
@pytest.mark.parametrize("route_k", [2, 16])
def test_documents_in_code_are_weighted_alike(coded, texts, lane, route_k):
    for query in QUERIES:
        expected = {id_: weighted_score(query, text) for id_, text in texts.items()}
        hits = coded.search(query, 10, lane=lane, route_k=route_k, depth=100)
        assert [hit.score for hit in hits] == pytest.approx([expected[hit.id] for hit in hits], abs=0.05)
        assert hits[0].score == pytest.approx(max(expected.values()), abs=0.05)


def test_without_weights_all_tokens_count_the_same(plain, texts):
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(list(texts.values()), list(texts))
        for query in QUERIES:
            assert plain.search(query, weighted=False) == index.search(query) == index.search(query, weighted=False)
    assert plain.search(QUERIES[0]) != plain.search(QUERIES[0], weighted=False)


def test_routed_tokens_alone_are_not_weighted(plain):
    """Weights have the mean 1 over all tokens of a query, not over some."""
    for query in QUERIES:
        options = {"route_k": 1, "refine": False}
        assert plain.search(query, **options) == plain.search(query, **options, weighted=False)


def test_relevance_stays_between_zero_and_one(plain, texts):
    """A document that holds the whole query is as relevant as can be, whatever the weights."""
    found = [*plain.search_batch_detailed(QUERIES, 300), plain.search_detailed(texts["007"], 300)]
    for result in found:
        assert all(0 <= one <= 1 for one in relevances(result))
    assert found[-1].hits[0].id == "007"
    assert relevances(found[-1])[0] == pytest.approx(1, abs=1e-3)


def test_a_hybrid_search_adds_words_to_weighted_scores(plain, texts):
    query = QUERIES[0]
    plainly = hybrid_scores(query, texts)
    unweighted = {hit.id: hit.score for hit in plain.search(query, 300, weighted=False)}
    weighted = {hit.id: hit.score for hit in plain.search(query, 300)}
    for hit in plain.search(query, 10, hybrid=True):
        words_alone = plainly[hit.id] - unweighted[hit.id]
        assert hit.score == pytest.approx(weighted[hit.id] + words_alone, abs=5e-3)


def test_weighted_must_be_true_or_false(plain):
    with pytest.raises(InvalidInputError, match="weighted must be True or False, not 'yes'"):
        plain.search("x", weighted="yes")


@pytest.mark.parametrize("weighted", [True, False])
def test_explanations_and_reranking_weigh_as_the_search(model: FastLaneModel, passages, weighted):
    query, texts = "who may accept a proposal", [p["text"] for p in passages[:30]]
    with FastLaneIndex.create(model=model) as index:
        index.add(texts, [str(i) for i in range(30)])
        hits = index.search(query, 5, weighted=weighted)
        (encoded,) = model.encode_routed([query])
        for explanation in (hits[0].explain(), index.explain(query, hits[0], weighted=weighted)):
            counted = encoded.weights.tolist() if weighted else [1.0] * len(encoded.tokens)
            assert [match.weight for match in explanation.tokens] == pytest.approx(counted, abs=1e-4)
            assert explanation.score == pytest.approx(hits[0].score, abs=0.06)
    ranked = rerank(query, texts, model=model, weighted=weighted)
    assert str(ranked[0].position) == hits[0].id
    reranked = {str(one.position): one.score for one in ranked}
    assert [reranked[hit.id] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=0.06)
