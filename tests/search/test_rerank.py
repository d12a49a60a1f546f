"""Reranking texts at hand, relevance, and maximal marginal relevance."""

import subprocess
import sys

import pytest
import torch

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneWarning, InvalidInputError
from fastlane_rag.rerank import diversify, relevance, relevances, rerank

QUERY = "when do cats purr?"
TEXTS = ["Dogs bark at strangers.", "Cats purr when content.", "Cats purr when they are content.", "Birds sing."]


@pytest.fixture
def index(model):
    with FastLaneIndex.create(model=model) as index:
        index.add(TEXTS, ids=["dog", "cat", "cats", "bird"])
        yield index


@pytest.mark.parametrize("weighted", [True, False])
def test_rerank_is_summaxsim_over_all_tokens(model, weighted):
    (encoded,) = model.encode_routed([QUERY])
    query, weights = encoded.embeddings, encoded.weights if weighted else torch.ones(len(encoded.tokens))
    expected = [float((query @ tokens.T).max(dim=1).values @ weights) for tokens in model.encode_documents(TEXTS)]
    ranked = rerank(QUERY, TEXTS, model=model, weighted=weighted)
    assert [one.position for one in ranked] == sorted(range(4), key=lambda i: -expected[i])
    assert [one.score for one in ranked] == pytest.approx([expected[one.position] for one in ranked], abs=1e-3)
    assert [one.relevance for one in ranked] == [relevance(one.score, len(query)) for one in ranked]
    assert rerank(QUERY, [], model=model) == []


@pytest.mark.parametrize(
    ("score", "tokens", "expected"), [(4.0, 4, 1.0), (0.0, 4, 0.5), (-4.0, 4, 0.0), (4.00001, 4, 1.0), (-5.0, 4, 0.0)]
)
def test_relevance_is_the_mean_similarity_from_0_to_1(score, tokens, expected):
    assert relevance(score, tokens) == expected


@pytest.mark.parametrize("options", [{}, {"route_k": 2, "refine": False}, {"route_k": "all"}, {"route_k": 1}])
def test_the_relevance_of_hits_divides_by_the_tokens_that_were_scored(index, options):
    (result,) = index.search_batch_detailed([QUERY], 4, **options)
    tokens = 2 if options.get("refine") is False else len(result.routed.embeddings)
    assert relevances(result) == [relevance(hit.score, tokens) for hit in result.hits]


def test_diversify_passes_over_what_repeats(index, model):
    (result,) = index.search_batch_detailed([QUERY], 4)
    assert {hit.id for hit in result.hits[:2]} == {"cat", "cats"}
    varied = [hit.id for hit in diversify(result, 3, model=model, relevance_weight=0.3)]
    assert varied[0] == result.hits[0].id
    assert varied[1] in ("dog", "bird")
    assert diversify(result, 9, model=model, relevance_weight=1.0) == result.hits
    assert diversify(result, 0, model=model) == []
    with pytest.raises(ValueError, match="0 to 1"):
        diversify(result, 2, model=model, relevance_weight=1.5)
    with pytest.raises(InvalidInputError, match="k must be a whole number"):
        diversify(result, -1, model=model)
    with pytest.raises(InvalidInputError, match="texts must be a list"):
        rerank(QUERY, "one text", model=model)


def test_importing_the_module_loads_no_torch():
    code = "import sys, fastlane_rag.rerank; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("query", "texts", "options", "message"),
    [
        (None, TEXTS, {}, "query must be str, not NoneType"),
        ("\ud800", TEXTS, {}, "query holds half of a surrogate pair"),
        (QUERY, None, {}, "texts must be a list, not NoneType"),
        (QUERY, b"cats", {}, "texts must be a list, not bytes"),
        (QUERY, ["cats", None], {}, r"texts\[1\] must be str, not NoneType"),
        (QUERY, TEXTS, {"weighted": "no"}, "weighted must be True or False, not 'no'"),
        (
            QUERY,
            TEXTS,
            {"model": "default"},
            "model must be a FastLaneModel or an object that encodes, not str 'default'",
        ),
        (QUERY, TEXTS, {"model": None}, "model must be a FastLaneModel or an object that encodes, not NoneType"),
    ],
)
def test_what_cannot_be_ranked_is_named(model, query, texts, options, message):
    with pytest.raises(InvalidInputError, match=message):
        rerank(query, texts, **{"model": model, **options})


def test_diversify_says_what_it_takes(index, model):
    result = index.search_detailed(QUERY, k=2)
    with pytest.raises(InvalidInputError, match="result must be what search_detailed returns, not list"):
        diversify(result.hits, 1, model=model)
    with pytest.raises(InvalidInputError, match="model must be a FastLaneModel"):
        diversify(result, 1, model=None)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_warned_of(model, query):
    with pytest.warns(FastLaneWarning, match="the query is empty"):
        assert len(rerank(query, TEXTS, model=model)) == 4
