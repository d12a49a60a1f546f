"""The vector lane in another database: what it finds, and that the two stores agree whatever happens between them."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from candidate_table import Table
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.candidates import CandidateIndex
from fastlane_rag.errors import CandidateSourceError, InvalidInputError


@pytest.fixture
def queries(texts):
    return [" ".join(text.split()[5:20:2]) for text in texts[::90]]


def ids(hits):
    return [hit.id for hit in hits]


def test_it_finds_what_the_index_finds(filled, source, queries):
    index = CandidateIndex(filled, source)
    assert len(source.versions()) == len(index) == 900
    for query in queries:
        result = index.search_detailed(query)
        [own] = filled.search_batch_detailed([query], lane="vector")
        assert result.lane == "vector"
        assert ids(result.hits) == ids(own.hits)
        assert [hit.score for hit in result.hits] == pytest.approx([hit.score for hit in own.hits], abs=1e-4)
    assert index.verify() == []


@pytest.mark.parametrize(
    "filter_", [{"odd": True}, {"i": {"$lt": 700}}, {"i": {"$gte": 893}}, {"i": -1}, {"$id": "d3"}]
)
def test_every_filter_leaves_exactly_k_hits(filled, source, queries, filter_):
    index = CandidateIndex(filled, source)
    passing = filled.ids(filter_)
    hits = index.search(queries[0], filter=filter_)
    assert len(hits) == min(10, len(passing))
    assert {*ids(hits)} <= {*passing}


def test_a_filter_that_passes_very_many_is_applied_to_more_and_more_candidates(filled, queries, monkeypatch):
    monkeypatch.setattr("fastlane_rag.candidates.index._MOST_IDS", 5)
    table = Table()
    index = CandidateIndex(filled, table)
    few = {"i": {"$in": list(range(0, 900, 50))}}
    hits = index.search(queries[0], filter=few)
    assert len(hits) == 10
    assert {*ids(hits)} <= {*filled.ids(few)}
    assert [n for n, _ in table.asked] == sorted({n for n, _ in table.asked})
    assert len(table.asked) > 1
    assert {of for _, of in table.asked} == {None}


def test_writes_reach_both(filled, source, texts):
    index = CandidateIndex(filled, source)
    index.delete(["d20", "d21"])
    index.add(["okapi9 zebra9 okapi9"], ["d22"])
    assert "d20" not in source.versions()
    assert ids(index.search("okapi9 zebra9", 1)) == ["d22"]  # has no vector yet
    assert "d20" not in ids(index.search(texts[20], 50))
    index.compact()
    assert len(source.versions()) == len(index) == 898
    assert ids(index.search("okapi9 zebra9", 1)) == ["d22"]
    before = source.versions()
    index.compact(retrain=True)
    assert source.versions().keys() == before.keys()
    assert not {*source.versions().values()} & {*before.values()}
    assert index.verify() == []


@pytest.mark.parametrize("call", ["upsert", "delete"])
def test_a_crash_between_the_stores_loses_nothing_and_is_mended(filled, queries, texts, call):
    table = Table()
    index = CandidateIndex(filled, table)
    table.fails = {call}

    def write():
        index.delete(["d1"])
        index.compact(retrain=True)

    with pytest.raises(CandidateSourceError):
        write()
    filled.add(["okapi9 zebra9"], ["new"])
    table.fails = set()
    with FastLaneIndex.open(filled.path, model=WordModel()) as opened:
        again = CandidateIndex(opened, table)
        assert again.verify() == []
        assert "d1" not in ids(again.search(texts[1], 50))
        assert ids(again.search("okapi9 zebra9", 1)) == ["new"]
        found = ids(again.search(queries[3]))
        assert found == ids(opened.search(queries[3], lane="vector"))


def test_what_others_did_to_the_database_is_told_and_mended(filled, source):
    index = CandidateIndex(filled, source)
    source.delete(["d5", "d6"])
    source.upsert(["stranger", "d7"], np.ones((2, 512), np.float32), ["x", "y"])
    told = " ".join(index.verify())
    assert "lacks 2 documents, such as 'd5'" in told
    assert "another vector of 1 documents, such as 'd7'" in told
    assert "1 documents, such as 'stranger'" in told
    assert index.verify(repair=True) == []
    assert index.verify() == []


def test_a_write_of_another_object_is_seen(filled, source):
    index = CandidateIndex(filled, source)
    with FastLaneIndex.open(filled.path, model=WordModel()) as other:
        other.add(["okapi9 zebra9"], ["new"])
        other.delete(["d1"])
    assert ids(index.search("okapi9 zebra9", 1)) == ["new"]
    assert "d1" not in source.versions()


def test_a_reader_leaves_the_database_as_it_is(filled, queries):
    table = Table()
    CandidateIndex(filled, table)
    filled.delete(["d1"])
    with FastLaneIndex.open(filled.path, model=WordModel(), read_only=True) as opened:
        reader = CandidateIndex(opened, table)
        assert "d1" in table.rows
        assert len(reader.search(queries[0])) == 10


def test_an_index_without_vectors_is_searched_by_itself(texts):
    table = Table()
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(texts[:20])
        found = CandidateIndex(index, table)
        assert len(found.search(texts[3])) == 10
        assert table.asked == []


def test_other_lanes_and_hybrid_searches_are_the_indexs_own(filled, queries):
    table = Table()
    index = CandidateIndex(filled, table)
    for options in ({"hybrid": True}, {"lane": "words"}, {"lane": "exhaustive"}, {"refine": False, "route_k": 2}):
        assert ids(index.search(queries[0], **options)) == ids(filled.search(queries[0], **options))
    assert table.asked == []


def test_both_adapters_take_it(filled, source, queries):
    from langchain_fastlane import FastLaneRetriever, FastLaneVectorStore
    from llama_index.core.schema import QueryBundle
    from llama_index.retrievers.fastlane import FastLaneRetriever as LlamaRetriever

    index = CandidateIndex(filled, source)
    expected = ids(index.search(queries[0], 4))
    assert [one.id for one in FastLaneRetriever(index=index, k=4).invoke(queries[0])] == expected
    assert [one.id for one in FastLaneVectorStore(index).similarity_search(queries[0], k=4)] == expected
    nodes = LlamaRetriever(index, similarity_top_k=4).retrieve(QueryBundle(queries[0]))
    assert [one.node.node_id for one in nodes] == expected


def test_a_database_that_cannot_be_reached_is_named(postgres):
    from fastlane_rag.candidates.pgvector import PgVector

    with pytest.raises(CandidateSourceError, match="PostgreSQL"):
        PgVector("postgresql://127.0.0.1:1/none?connect_timeout=2")


def test_the_page_about_it_runs(postgres, filled, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "candidates.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    block = block.replace('"postgresql://user@localhost/app"', repr(postgres))
    block = block.replace('FastLaneIndex.open("docs.index")', "opened")
    namespace = {"opened": filled}
    exec(block, namespace)
    assert namespace["index"].search("Cats purr.", 1)[0].id == "cats"
    namespace["source"].close()


def test_what_is_no_index_or_no_database_is_refused(filled):
    for index in (None, "docs.index"):
        with pytest.raises(InvalidInputError, match="index must be an open FastLaneIndex, not"):
            CandidateIndex(index, None)
    with pytest.raises(InvalidInputError, match=r"source must be a database .* has no upsert, delete, versions"):
        CandidateIndex(filled, "postgresql://localhost/app")


def test_the_face_is_that_of_an_index():
    """Every method that both have takes the same arguments; `verify` takes `repair` as well."""
    for name, method in vars(CandidateIndex).items():
        twin = getattr(FastLaneIndex, name, None)
        if inspect.isfunction(method) and not name.startswith("_") and name not in ("close", "verify") and twin:
            assert [*inspect.signature(method).parameters] == [*inspect.signature(twin).parameters], name


def test_words_to_search_by_may_come_from_any_iterable(filled):
    index = CandidateIndex(filled, Table())
    for options in ({"lane": "words"}, {"hybrid": True}):
        found = index.search_batch_detailed(["cats"], texts=iter(["d1 index"]), **options)
        assert ids(found[0].hits) == ids(filled.search_batch_detailed(["cats"], texts=["d1 index"], **options)[0].hits)


def test_it_is_an_index_in_a_loop_and_a_block(filled, source):
    with CandidateIndex(filled, source) as index:
        assert list(index) == filled.ids()
        index.delete(filter={})
        assert index  # empty, and still an index
        with pytest.raises(InvalidInputError, match="queries must be a list"):
            index.search_batch("cats")
