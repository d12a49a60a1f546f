"""The vector lane: what it finds, and that writes, filters, merges and copies leave it right."""

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stopped import fill_unevenly
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.scoring.native import kernels
from fastlane_rag.search import graph
from fastlane_rag.search import vectors as search_vectors
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.segment import Segment
from fastlane_rag.upkeep import recode, write
from fastlane_rag.vectors.documents import DocumentVectors

made = graph.Graph


@pytest.fixture(scope="module")
def texts(passages):
    words = " ".join(passage["text"] for passage in passages).split()
    return [" ".join(words[i : i + 40]) for i in range(0, 40 * 900, 40)]


@pytest.fixture(scope="module")
def queries(texts):
    return [" ".join(text.split()[5:20:2]) for text in texts[::60]]


@pytest.fixture(scope="module")
def limits():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recode, "TRAIN_TOKENS", 1000)
        patch.setattr(write, "SMALL_BYTES", 20_000)
        yield patch


@pytest.fixture(scope="module")
def index(texts, tmp_path_factory, limits):
    """Segments of two vector maps, one without vectors, pending documents, dead rows."""
    path = tmp_path_factory.mktemp("vectors") / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recode, "GROWTH", 3)

        fill_unevenly(index, texts, patch)
        assert len({*maps(index)} - {None}) == 2
        assert maps(index)[-1] is None
        assert index.stats().pending == 10
        patch.undo()
        yield index


def maps(index):
    """The vector map of each segment, oldest first; None for a segment without vectors."""
    with index._storage.view() as view:
        sources = [part.source for part in view.snapshot.parts if isinstance(part.source, Segment)]
        return [source.vectors and source.vectors.name for source in sources]


def found(index, query, k=10, **options):
    [result] = index.search_batch_detailed([query], k, lane="vector", **options)
    return result


def ids(hits):
    return [hit.id for hit in hits]


def exact(index, query, k=10, **options):
    return index.search(query, k, lane="exhaustive", route_k="all", **options)


def test_it_finds_nearly_all_of_the_ten_best(index, queries):
    shares = []
    for query in queries:
        result, best = found(index, query), exact(index, query)
        assert result.lane == "vector"
        assert len(result.hits) == 10
        shares.append(len({*ids(result.hits)} & {*ids(best)}) / 10)
    assert np.mean(shares) > 0.95


def test_a_long_query_is_answered_by_vectors(index, texts):
    """Sixteen of its tokens find less. A search that names a lane or how many tokens gather is taken at its word."""
    policy = SearchPolicy(vector_tokens=64, exhaustive_documents=256)
    shares = {"vector": [], "approximate": []}
    for n in range(0, 800, 80):
        query = " ".join(texts[n : n + 8])
        best = {*ids(exact(index, query))}
        for lane, options in (("vector", {}), ("approximate", {"route_k": 16})):
            result = index.search_detailed(query, policy=policy, **options)
            assert result.lane == lane
            shares[lane].append(len({*ids(result.hits)} & best) / 10)
    assert np.mean(shares["vector"]) > np.mean(shares["approximate"])
    assert index.search_detailed(texts[0], policy=policy).lane == "approximate"
    assert index.search_detailed(query, policy=policy, lane="approximate").lane == "approximate"
    assert index.search_detailed(query, policy=policy, refine=False).lane == "approximate"


def test_hits_have_the_scores_of_exhaustive_search(index, queries):
    scores = {hit.id: hit.score for hit in exact(index, queries[1], 900)}
    for hit in found(index, queries[1]).hits:
        assert hit.score == pytest.approx(scores[hit.id], abs=0.05)


@pytest.mark.parametrize("share", [1, 2, 9, 70, 400])
def test_every_filter_leaves_exactly_k_hits(index, queries, share):
    """From a filter that passes all to one that passes fewer than k."""
    few = [n for n in range(0, 900, share) if n % 100 != 7]
    filter_ = {"i": {"$in": few}}
    hits = found(index, queries[0], filter=filter_).hits
    assert len(hits) == min(10, len(few))
    assert {hit.metadata["i"] for hit in hits} <= {*few}
    assert found(index, queries[0], filter={"i": -1}).hits == []


def test_more_hits_than_documents(index, queries):
    assert len(found(index, queries[0], 2000).hits) == len(index)
    assert found(index, queries[0], 0).hits == []


def test_deleted_and_replaced_documents_are_not_found(tmp_path, texts, limits):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(texts[:200], [f"{i}" for i in range(200)])
        assert ids(found(index, texts[20], 1).hits) == ["20"]
        index.delete(["20"])
        index.add(["okapi9 zebra9"], ["21"])
        assert "20" not in ids(found(index, texts[20], 199).hits)
        assert ids(found(index, "okapi9 zebra9", 1).hits) == ["21"]
        assert found(index, texts[21], 1).hits[0].text != texts[21]


def test_vectors_survive_merges_copies_and_reopening(tmp_path, texts, queries, limits):
    """Vectors are copied, not computed again: a merged index finds the same, and has the same bytes of them."""
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        for first in (0, 100, 200):
            index.add(texts[first : first + 100], [f"{i}" for i in range(first, first + 100)])
        index.delete(["5", "150"])
        [name] = {*maps(index)}
        before, kept = [found(index, query).hits for query in queries], levels(index)
        index.compact()
        assert maps(index) == [name]
        assert [found(index, query).hits for query in queries] == before
        assert np.array_equal(levels(index), kept)
        assert index.verify() == []
        index.save(tmp_path / "copy")
        index.compact(retrain=True)
        assert maps(index) != [name]
        assert index.verify() == []
    with FastLaneIndex.open(tmp_path / "copy", model=WordModel()) as again:
        assert maps(again) == [name]
        assert [found(again, query).hits for query in queries] == before
        assert again.verify() == []


def levels(index):
    """The vectors of the live documents, oldest first."""
    with index._storage.view() as view:
        parts = [part for part in view.snapshot.parts if part.vectors is not None]
        return np.concatenate(
            [part.vectors.levels if part.live is None else part.vectors.levels[part.live] for part in parts]
        )


def test_an_index_without_vectors_is_searched_exhaustively(texts, queries):
    with FastLaneIndex.create(model=WordModel(), codec="fp16") as index:
        index.add(texts[:100])
        result = found(index, queries[0])
        assert result.lane == "exhaustive"
        assert ids(result.hits) == ids(exact(index, queries[0]))


@pytest.mark.parametrize(
    "options", [{"refine": False}, {"route_k": 2}, {"hybrid": True}, {"depth": 3}, {"route_k": "all"}]
)
def test_the_other_options_work_with_it(index, queries, options):
    result = found(index, queries[2], **options)
    assert result.lane == "vector"
    assert len(result.hits) == 10
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
    if options.get("refine") is False:
        scores = {hit.id: hit.score for hit in index.search(queries[2], 900, lane="exhaustive", refine=False)}
        assert all(hit.score == pytest.approx(scores[hit.id], abs=0.05) for hit in result.hits)


def test_without_the_compiled_kernels_it_finds_the_same(index, queries, monkeypatch):
    """Nearly: torch scores without rounding the query, which swaps hits that are close."""
    expected = [{*ids(found(index, query).hits)} for query in queries]
    monkeypatch.setattr(kernels, "available", lambda: False)
    shares = [len({*ids(found(index, query).hits)} & best) / 10 for query, best in zip(queries, expected, strict=True)]
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize("numbers", [None, np.array([0, 3, 4, 11])], ids=["all", "some"])
@pytest.mark.parametrize("dimensions", [1, 7, 64, 100])
def test_products_are_what_they_say(numbers, dimensions, monkeypatch):
    chance = np.random.default_rng(0)
    levels = chance.integers(-127, 128, (12, 100), dtype=np.int8)
    vectors = DocumentVectors(levels, chance.random(12).astype(np.float32), "drawn")
    query = chance.standard_normal(dimensions).astype(np.float32)
    true = (levels[:, :dimensions] @ query.astype(np.float64) * vectors.scales)[
        slice(None) if numbers is None else numbers
    ]
    bound = float(127 * dimensions * np.abs(query).max() / 2047)
    assert search_vectors.products(vectors, query, numbers) == pytest.approx(true, abs=bound)
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert search_vectors.products(vectors, query, numbers) == pytest.approx(true, rel=1e-4, abs=1e-3)


def test_leading_dimensions_choose_among_many(index, queries):
    """Scanned by an eighth of the dimensions, with whole vectors of the best 80 alone, it finds most of the ten."""
    shares = []
    for query in queries:
        best = {*ids(exact(index, query))}
        result = found(index, query, policy=SearchPolicy(vector_scan=64, vector_whole=2), depth=40)
        assert len(result.hits) == 10
        shares.append(len({*ids(result.hits)} & best) / 10)
    assert np.mean(shares) > 0.8
    assert found(index, queries[0], policy=SearchPolicy(vector_whole=2), depth=40).gathered > len(index)


def with_graphs(index, query, policy):
    """Searches, so that graphs are wanted, and waits until they are built."""
    found(index, query, policy=policy, depth=12)
    index.optimize()


def test_large_segments_are_searched_by_graphs(index, queries):
    policy = SearchPolicy(vector_graph=100)
    with_graphs(index, queries[0], policy)
    shares = []
    for query in queries:
        result = found(index, query, policy=policy, depth=60)
        assert result.lane == "vector"
        shares.append(len({*ids(result.hits)} & {*ids(found(index, query, depth=60).hits)}) / 10)
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize("share", [1, 2, 9, 70, 400])
def test_graphs_leave_exactly_k_hits_under_every_filter(index, queries, share):
    few = [n for n in range(0, 900, share) if n % 100 != 7]
    policy = SearchPolicy(vector_graph=100)
    with_graphs(index, queries[0], policy)
    hits = found(index, queries[0], filter={"i": {"$in": few}}, policy=policy, depth=12).hits
    assert len(hits) == min(10, len(few))
    assert {hit.metadata["i"] for hit in hits} <= {*few}


def test_a_commit_keeps_the_graphs_of_its_segments(tmp_path, texts, limits, monkeypatch):
    built = []
    monkeypatch.setattr(graph, "Graph", lambda vectors, wanted: built.append(len(vectors)) or made(vectors, wanted))
    policy = SearchPolicy(vector_graph=50)
    with FastLaneIndex.create(tmp_path / "index", model=WordModel(), policy=policy) as index:
        index.add(texts[:100], [f"{i}" for i in range(100)])
        with_graphs(index, texts[20], policy)
        assert ids(found(index, texts[20], 1, depth=5).hits) == ["20"]
        index.add(texts[100:200], [f"{i}" for i in range(100, 200)])
        index.delete(["20"])
        with_graphs(index, texts[20], policy)
        assert "20" not in ids(found(index, texts[20], 5, depth=5).hits)
        assert built == [100, 100]
        index.compact()
        with_graphs(index, texts[20], policy)
        assert ids(found(index, texts[150], 1, depth=5).hits) == ["150"]
        assert built == [100, 100, 199]


def test_no_search_waits_for_a_graph(tmp_path, texts, limits, monkeypatch):
    """While a graph is built its vectors are scanned; closing the index gives it up."""
    started, go_on, wanted_at_the_end = threading.Event(), threading.Event(), []

    def slow(vectors, wanted):
        started.set()
        assert go_on.wait(60)
        wanted_at_the_end.append(wanted())
        return made(vectors, wanted)

    monkeypatch.setattr(graph, "Graph", slow)
    policy = SearchPolicy(vector_graph=50)
    index = FastLaneIndex.create(tmp_path / "index", model=WordModel(), policy=policy)
    index.add(texts[:100], [f"{i}" for i in range(100)])
    scanned = found(index, texts[20], policy=SearchPolicy(), depth=5).hits
    assert found(index, texts[20], depth=5).hits == scanned
    assert started.wait(60)
    assert found(index, texts[20], depth=5).hits == scanned
    index.close()
    go_on.set()
    [thread] = [one for one in threading.enumerate() if one.name == "fastlane-graphs"] or [None]
    if thread is not None:
        thread.join(60)
    assert wanted_at_the_end == [False]


def test_a_graph_that_cannot_be_built_is_told_once_and_scanned(index, queries, monkeypatch, caplog):
    def fails(vectors, wanted):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(graph, "Graph", fails)
    index._states.clear()
    policy = SearchPolicy(vector_graph=100)
    with_graphs(index, queries[0], policy)
    told = len(caplog.records)
    assert told
    assert "could not be built, so its vectors are scanned: std::bad_alloc" in caplog.text
    with_graphs(index, queries[0], policy)
    assert len(caplog.records) == told
    assert found(index, queries[0], policy=policy, depth=60).hits == found(index, queries[0], depth=60).hits
    index._states.clear()


def test_without_faiss_all_vectors_are_scanned_after_one_warning(index, queries, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    index._states.clear()
    policy = SearchPolicy(vector_graph=100)
    with pytest.warns(RuntimeWarning, match=r"needs faiss: pip install 'fastlane-rag\[cpu\]'"):
        first = found(index, queries[0], policy=policy, depth=60).hits
    assert first == found(index, queries[0], depth=60).hits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for query in queries:
            assert found(index, query, policy=policy, depth=60).hits == found(index, query, depth=60).hits
    index._states.clear()


def test_threads_do_not_disturb_each_other(index, queries):
    expected = [found(index, query).hits for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: found(index, query).hits, queries)) == expected


def test_damage_to_vectors_and_their_map_is_told(tmp_path, texts, limits):
    import sqlite3

    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add(texts[:200])
    with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
        catalogue.execute("UPDATE maps SET parameters = substr(parameters, 1, 5000)")
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert "vector map" in index.verify()[0]
        assert len(index.search(texts[3], 5, lane="exhaustive")) == 5
    with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
        catalogue.execute("DELETE FROM maps")
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert "the vector map of" in index.verify()[0]


def test_unknown_lanes_are_refused_with_the_known_ones(index):
    with pytest.raises(InvalidInputError, match="'approximate', 'vector', 'words' or None, not 'vectors'"):
        index.search("words", lane="vectors")
