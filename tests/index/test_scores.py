"""Scores: relevance from 0 to 1, thresholds, weights of words, their fusions, and the lane of words."""

import copy
import pickle

import numpy as np
import pytest
from word_model import WordModel, bm25_scores, exact_score, words

from fastlane_rag import FastLaneIndex, Hit
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.rerank import rerank
from fastlane_rag.search.policy import SearchPolicy

QUERIES = ["type hints for function annotations", "PEP 484 generic types", "a list of the with statement"]


@pytest.fixture(scope="module")
def texts(passages):
    found = {passage["id"]: passage["text"].encode("ascii", "ignore").decode() for passage in passages[:80]}
    return {id_: " ".join(text.split()[:40]) for id_, text in found.items()}


@pytest.fixture(scope="module")
def index(texts):
    with FastLaneIndex.create(model=WordModel(), codec="fp16") as made:
        made.add(list(texts.values()), list(texts))
        yield made


def ranked(scores, k):
    return sorted(scores, key=lambda id_: (-scores[id_], id_))[:k]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("weight", [0.05, 0.4, 1.0, np.float32(0.5)])
def test_a_weight_is_a_convex_combination(index, texts, query, weight):
    """Of the mean cosine and BM25 over the best there is, in units of the query's tokens."""
    count, of_words = len(words(query)), bm25_scores(query, texts)
    most, w = max(of_words.values()), float(weight)
    expected = {i: (1 - w) * exact_score(query, t) + w * count * of_words[i] / most for i, t in texts.items()}
    hits = index.search(query, 10, hybrid=weight)
    assert [hit.score for hit in hits] == pytest.approx([expected[i] for i in ranked(expected, 10)], abs=5e-3)
    assert [hit.relevance for hit in hits] == pytest.approx([(hit.score / count + 1) / 2 for hit in hits])


@pytest.mark.parametrize("query", QUERIES)
def test_true_ranks_as_its_weight_does(index, query):
    weight = SearchPolicy().words_weight
    as_weight = index.search(query, 10, hybrid=weight / (1 + weight))
    assert [hit.id for hit in index.search(query, 10, hybrid=True)] == [hit.id for hit in as_weight]
    assert index.search(query, 10, hybrid=0) == index.search(query, 10)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("weight", "share"), [(True, 0.3), (0.5, 0.5), (0.8, 0.8)])
def test_reciprocal_ranks(index, texts, query, weight, share):
    """All 80 documents are candidates, so the ranks are those of the whole collection."""
    cosine, of_words = {i: exact_score(query, t) for i, t in texts.items()}, bm25_scores(query, texts)

    def rank(scores, id_):
        return 1 + sum(other > scores[id_] + 1e-6 for other in scores.values())

    expected = {
        i: (1 - share) / (10 + rank(cosine, i)) + (share / (10 + rank(of_words, i)) if of_words[i] > 0 else 0)
        for i in texts
    }
    hits = index.search(query, 10, hybrid=weight, fusion="rrf", route_k="all", depth=80)
    assert [hit.score for hit in hits] == pytest.approx([expected[i] for i in ranked(expected, 10)], abs=2e-3)
    assert [hit.relevance for hit in hits] == pytest.approx([hit.score * 11 for hit in hits])
    assert index.search(query, 5, fusion="rrf") == index.search(query, 5)


@pytest.mark.parametrize("query", QUERIES)
def test_the_lane_of_words_ranks_by_bm25_without_a_model(texts, tmp_path, query):
    expected = bm25_scores(query, texts)
    found = [id_ for id_ in ranked(expected, 10) if expected[id_] > 0]
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as made:
        made.add(list(texts.values()), list(texts), [{"n": n} for n in range(len(texts))])
    with FastLaneIndex.open(tmp_path / "index", read_only=True) as opened:  # with the bundled model, which is another
        result = opened.search_detailed(query, 10, lane="words")
        assert [hit.id for hit in result.hits] == found
        assert [hit.score for hit in result.hits] == pytest.approx([expected[id_] for id_ in found], rel=1e-4)
        assert all(0 < hit.relevance < 1 for hit in result.hits)
        assert (result.lane, result.comparisons, result.selected) == ("words", 0, [])
        assert result.milliseconds["words"] > 0
        early = opened.search(query, 80, lane="words", filter={"n": {"$lt": 9}})
        assert [hit.id for hit in early] == [
            i for i in ranked(expected, 80) if expected[i] > 0 and i in list(texts)[:9]
        ]
        assert opened.search("qqq zzz", lane="words") == opened.search("", lane="words") == []
        encoded = WordModel().encode_routed([query])
        [again] = opened.search_batch_detailed(encoded, 10, lane="words", texts=[query])
        assert again.hits == result.hits
        with pytest.raises(InvalidInputError, match="give the texts"):
            opened.search_batch_detailed(encoded, 10, lane="words")


def test_copies_keep_their_relevance(index):
    [hit] = index.search(QUERIES[0], 1)
    for other in (copy.copy(hit), copy.deepcopy(hit), pickle.loads(pickle.dumps(hit))):
        assert (other, other.relevance) == (hit, hit.relevance)
        assert 0 < other.relevance < 1
    assert copy.deepcopy(hit).metadata is not hit.metadata
    assert Hit("made", 1.0, "by hand").relevance == 0


def test_a_word_said_without_end_is_wholly_relevant():
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(["needle " * 250, "needle in hay", "hay"], ["full", "some", "none"])
        full, some = index.search("needle", lane="words")
        assert (full.id, some.id) == ("full", "some")
        assert some.relevance < full.relevance < 1


@pytest.mark.parametrize("options", [{}, {"route_k": 2, "refine": False}, {"hybrid": True}, {"lane": "words"}], ids=str)
@pytest.mark.parametrize("query", QUERIES)
def test_a_threshold_leaves_out_hits_of_lower_relevance(index, query, options):
    hits = index.search(query, 8, **options)
    relevances = [hit.relevance for hit in hits]
    assert relevances == sorted(relevances, reverse=True)
    for threshold in (relevances[3], relevances[3] + 1e-6, 0, 1):
        expected = [hit for hit in hits if hit.relevance >= threshold]
        assert index.search(query, 8, score_threshold=threshold, **options) == expected
        [batched] = index.search_batch([query], 8, score_threshold=threshold, **options)
        assert batched == expected


def test_a_threshold_holds_in_the_approximate_lane_and_beside_ties(texts):
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(["same words"] * 30 + ["others"], [f"{i:02}" for i in range(30)] + ["x"])
        hits = index.search("same words", 5, score_threshold=0.9)
        assert [hit.id for hit in hits] == ["00", "01", "02", "03", "04"]
        assert len(index.search("same words", 31, score_threshold=0.9)) == 30


def test_a_reranker_takes_a_threshold(model):
    texts = ["Cats purr.", "Dogs bark.", "Cats purr when content."]
    ranking = rerank("what does a cat do?", texts, model=model)
    kept = rerank("what does a cat do?", iter(texts), model=model, score_threshold=ranking[1].relevance)
    assert kept == ranking[:2]
    with pytest.raises(InvalidInputError, match="score_threshold must be a number from 0 to 1 or None, not 75"):
        rerank("cat", texts, model=model, score_threshold=75)


def test_queries_may_be_any_iterable(index):
    expected = index.search_batch(QUERIES, 3)
    assert index.search_batch((query for query in QUERIES), 3) == expected
    assert index.search_batch(iter(QUERIES), 3, hybrid=True) == index.search_batch(QUERIES, 3, hybrid=True)
    with pytest.raises(InvalidInputError, match="queries must be a list"):
        index.search_batch("one query")
