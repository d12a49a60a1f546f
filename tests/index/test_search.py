"""The query plan: its reports, and the queries it takes."""

import math
from time import perf_counter

import pytest
from word_model import WordModel, exact_score

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.model import RoutedQuery
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.result import STAGES

QUERY = "alpha7 beta of"  # three tokens; the long words are routed first


@pytest.fixture(scope="module")
def index():
    """Documents of three tokens each, more than are refined, in several parts, some dead."""
    with FastLaneIndex.create(model=WordModel()) as index:
        ids = [f"{i:04}" for i in range(900)]
        index.add(
            [f"alpha{i % 50} beta number{i}" for i in range(900)], ids=ids, metadatas=[{"i": i} for i in range(900)]
        )
        index.compact()
        index.add([f"alpha{i % 50} beta number{i}" for i in range(100)], ids=[f"late{i}" for i in range(100)])
        index.delete(ids[800:])
        yield index


def test_the_report_counts_comparisons(index):
    [result] = index.search_batch_detailed([QUERY], 5, route_k=2)
    assert len(result.selected) == 2
    assert result.candidates >= SearchPolicy().candidates_least
    # Dead rows are not compared: 900 live documents of three tokens.
    assert result.gathered == 2 * 900 * 3
    assert result.refined == 3 * result.candidates * 3
    assert result.full == 3 * 900 * 3
    assert result.comparisons == result.gathered + result.refined


def test_reports_of_one_search_are_equal(index):
    assert index.search_detailed("one three") == index.search_detailed("one three")


def test_every_token_needs_no_refining_and_is_exact(index):
    [result] = index.search_batch_detailed([QUERY], 20, route_k="all")
    assert (result.gathered, result.refined, result.candidates) == (result.full, 0, 0)
    for hit in result.hits:
        assert hit.score == pytest.approx(exact_score(QUERY, hit.text), abs=1e-4)


def test_few_matching_documents_are_refined_without_a_gather(index):
    [result] = index.search_batch_detailed([QUERY], 5, route_k=1, filter={"i": {"$lt": 100}})
    assert (result.gathered, result.candidates) == (0, 100)
    assert result.refined == 3 * 100 * 3


def test_the_gather_is_deep_enough_for_k(index):
    [result] = index.search_batch_detailed([QUERY], 60, route_k=1)
    assert result.candidates >= 60 * SearchPolicy().candidates_factor
    assert len(result.hits) == 60


def test_a_gather_alone_reports_no_refinement(index):
    [result] = index.search_batch_detailed([QUERY], 5, route_k=1, refine=False)
    assert (result.gathered, result.refined, result.candidates) == (900 * 3, 0, 0)
    best = max(exact_score("alpha7", hit.text) for hit in result.hits)
    assert result.hits[0].score == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"route_k": 1}, {"filter", "route", "gather", "refine", "fetch"}),
        ({"route_k": 1, "refine": False}, {"filter", "route", "gather", "fetch"}),
        ({"route_k": "all"}, {"filter", "route", "gather", "fetch"}),
        ({"route_k": 1, "filter": {"i": {"$lt": 100}}}, {"filter", "route", "refine", "fetch"}),
        ({"route_k": 1, "hybrid": True}, set(STAGES)),
        ({"route_k": 1, "lane": "approximate"}, {"filter", "route", "gather", "refine", "fetch"}),
        ({"route_k": 1, "lane": "approximate", "refine": False}, {"filter", "route", "gather", "fetch"}),
        ({"k": 0}, {"filter", "route", "fetch"}),
    ],
    ids=lambda value: " ".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else "",
)
def test_the_report_times_the_stages_that_ran(index, options, stages):
    """Queries of one call share its time: together their stages take no longer than the call."""
    start = perf_counter()
    results = index.search_batch_detailed([QUERY, "beta of", "number17 alpha3"], **options)
    took = 1000 * (perf_counter() - start)
    for result in results:
        assert tuple(result.milliseconds) == STAGES
        assert {stage for stage, spent in result.milliseconds.items() if spent} == stages
        assert min(result.milliseconds.values()) >= 0
    assert sum(sum(result.milliseconds.values()) for result in results) <= took


def test_encoded_queries_are_taken_as_they_are(index):
    routed = index.model.encode_routed([QUERY, "beta"])
    assert [r.hits for r in index.search_batch_detailed(routed, 3)] == [
        r.hits for r in index.search_batch_detailed([QUERY, "beta"], 3)
    ]
    assert index.search_batch_detailed(routed, 3)[0].routed is routed[0]


@pytest.mark.parametrize("queries", ["one text", ["a", 3], [None], [b"a"]])
def test_queries_must_be_texts(index, queries):
    with pytest.raises(InvalidInputError, match="queries"):
        index.search_batch_detailed(queries)


def test_unusable_embeddings_are_refused(index):
    [query] = index.model.encode_routed([QUERY])
    with pytest.raises(InvalidInputError, match="NaN"):
        index.search_batch_detailed([RoutedQuery(query.embeddings * math.nan, query.scores, query.tokens)])
    with pytest.raises(InvalidInputError, match="3 dimensions, the index 16"):
        index.search_batch_detailed([RoutedQuery(query.embeddings[:, :3], query.scores, query.tokens)])


def test_results_do_not_depend_on_how_documents_came_in(index):
    """The same documents added one by one, at once, or after deletions give the same hits and scores."""
    documents = index.get(index.ids())
    expected = index.search_batch([QUERY, "beta alpha3 number17"], 40, route_k=2)
    for step in (1, 7, 900):
        with FastLaneIndex.create(model=WordModel()) as other:
            for first in range(0, 900, step):
                some = documents[first : first + step]
                other.add([d.text for d in some], [d.id for d in some], [d.metadata for d in some])
            assert other.search_batch([QUERY, "beta alpha3 number17"], 40, route_k=2) == expected
