"""FastLaneRetriever keeps every promise LangChain's callers rely on."""

import asyncio
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.runnables import ConfigurableField
from langchain_fastlane import FastLaneRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import InvalidInputError

QUERY = "how do I add an enumeration type?"


class TestStandardSuite(RetrieversIntegrationTests):
    """LangChain's own suite, unchanged."""

    @pytest.fixture(autouse=True)
    def _engine(self, index: FastLaneIndex) -> None:
        self.index = index

    @property
    def retriever_constructor(self) -> type[FastLaneRetriever]:
        return FastLaneRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


@pytest.fixture
def retriever(index: FastLaneIndex) -> FastLaneRetriever:
    return FastLaneRetriever(index=index)


class Recorder(BaseCallbackHandler):
    """Keeps every retriever event."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.ends: list[list[Document]] = []
        self.errors: list[BaseException] = []

    def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
        self.starts.append({"query": query, **kwargs})

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.ends.append(documents)

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


def test_returns_four_documents_by_default_with_ids_texts_and_metadata_as_added(retriever, corpus):
    stored = {passage.id: passage for passage in corpus}
    found = retriever.invoke(QUERY)
    assert len(found) == 4
    for document in found:
        assert document.page_content == stored[document.id].text
        assert document.metadata == stored[document.id].metadata


def test_finds_what_the_query_is_about(retriever):
    assert retriever.invoke(QUERY)[0].metadata["pep"] == 435


# --- arguments of one call ---------------------------------------------------------------------------------------


async def test_every_search_argument_works_in_sync_and_async_calls(retriever):
    arguments = {"k": 2, "filter": {"tags": {"$contains": "early"}}, "route_k": 2, "refine": False}
    expected = retriever.invoke(QUERY, **arguments)
    assert len(expected) == 2
    assert all(document.metadata["tags"] == ["early"] for document in expected)
    assert await retriever.ainvoke(QUERY, **arguments) == expected
    assert retriever.bind(**arguments).invoke(QUERY) == expected
    assert await retriever.bind(**arguments).ainvoke(QUERY) == expected


async def test_async_returns_what_sync_returns(retriever):
    assert await retriever.ainvoke(QUERY) == retriever.invoke(QUERY)


def test_fields_are_the_defaults_of_each_call(index):
    retriever = FastLaneRetriever(index=index, k=3, filter=lambda metadata: metadata["pep"] > 400)
    found = retriever.invoke(QUERY)
    assert len(found) == 3
    assert all(document.metadata["pep"] > 400 for document in found)
    assert len(retriever.invoke(QUERY, k=12, filter={}, override_filter=True)) == 12


EARLY = {"pep": {"$lt": 400}}


@pytest.mark.parametrize("own", [EARLY, lambda metadata: metadata["pep"] < 400], ids=["dict", "function"])
@pytest.mark.parametrize("given", [{"pep": {"$gt": 300}}, lambda metadata: metadata["pep"] > 300])
async def test_a_filter_of_a_call_narrows_the_own_one_in_whatever_forms(index, own, given):
    """The own filter may be what keeps tenants apart: no call may widen it unless it says so."""
    retriever = FastLaneRetriever(index=index, k=12, filter=own)
    calls = [
        retriever.invoke(QUERY, filter=given),
        await retriever.ainvoke(QUERY, filter=given),
        retriever.batch([QUERY], filter=given)[0],
        retriever.bind(filter=given).invoke(QUERY),
    ]
    for found in calls:
        assert {document.metadata["pep"] for document in found} == {318, 343, 371}
    wider = retriever.invoke(QUERY, filter=given, override_filter=True)
    assert {document.metadata["pep"] for document in wider} == {318, 343, 371, 435, 465, 484, 557, 584, 616}


def test_an_override_says_by_what(index):
    retriever = FastLaneRetriever(index=index, filter=EARLY)
    with pytest.raises(InvalidInputError, match="override_filter=True needs the filter"):
        retriever.invoke(QUERY, override_filter=True)
    with pytest.raises(InvalidInputError, match="override_filter must be True or False, not 'yes'"):
        retriever.invoke(QUERY, filter={}, override_filter="yes")


@pytest.mark.parametrize("k", [0, 1, 12, 50])
def test_k_is_honoured_up_to_the_corpus_size(retriever, k):
    assert len(retriever.invoke(QUERY, k=k)) == min(k, 12)


def test_filters_are_applied_before_ranking_so_k_is_reached(retriever):
    found = retriever.invoke(QUERY, k=5, filter={"pep": {"$lt": 400}})
    assert len(found) == 5
    assert all(document.metadata["pep"] < 400 for document in found)
    assert retriever.invoke(QUERY, filter={"pep": 9999}) == []


def test_a_wrong_filter_is_an_error_not_ignored(retriever):
    with pytest.raises(ValueError, match=r"\$near"):
        retriever.invoke(QUERY, filter={"pep": {"$near": 8}})


@pytest.mark.parametrize("arguments", [{"top_k": 2}, {"search_kwargs": {"k": 2}}])
async def test_a_misspelt_argument_is_refused_everywhere(index, retriever, arguments):
    with pytest.raises(ValidationError, match="Extra inputs"):
        FastLaneRetriever(index=index, **arguments)
    with pytest.raises(TypeError, match="unexpected keyword"):
        retriever.invoke(QUERY, **arguments)
    with pytest.raises(TypeError, match="unexpected keyword"):
        await retriever.ainvoke(QUERY, **arguments)


def test_negative_k_and_a_foreign_index_are_refused(index):
    with pytest.raises(ValidationError, match="k must be a whole number, 0 or more, not -1"):
        FastLaneRetriever(index=index, k=-1)
    with pytest.raises(ValidationError, match="FastLaneIndex"):
        FastLaneRetriever(index="some/path")


@pytest.mark.parametrize("query", ["", "  ", "?", "word " * 2000])
def test_odd_queries_still_answer(retriever, query):
    assert len(retriever.invoke(query)) == 4


# --- the object as LangChain handles it --------------------------------------------------------------------------


def test_configurable_fields_rebuild_the_retriever_over_the_same_engine(retriever):
    configurable = retriever.configurable_fields(k=ConfigurableField(id="k"), filter=ConfigurableField(id="filter"))
    assert len(configurable.invoke(QUERY)) == 4
    config = {"configurable": {"k": 2, "filter": {"pep": {"$gt": 400}}}}
    assert len(configurable.invoke(QUERY, config=config)) == 2
    assert all(document.metadata["pep"] > 400 for document in configurable.invoke(QUERY, config=config))


def test_the_constructor_does_no_work(index):
    index.search(QUERY)
    started = time.perf_counter()
    for _ in range(100):
        FastLaneRetriever(index=index)
    assert time.perf_counter() - started < 1


def test_serialisation_and_repr_show_no_engine_internals(retriever):
    shown = json.dumps(dumpd(retriever)) + repr(retriever) + json.dumps(retriever.model_dump())
    assert "FastLaneRetriever" in shown
    assert "FastLaneIndex" not in shown


def test_results_are_fresh_copies(retriever):
    first = retriever.invoke(QUERY)
    before = [document.model_copy(deep=True) for document in first]
    for document in first:
        document.metadata["tags"].append("changed")
        document.page_content = "changed"
    assert retriever.invoke(QUERY) == before


def test_the_score_goes_into_metadata_only_on_request(index):
    plain = FastLaneRetriever(index=index).invoke(QUERY)
    scored = FastLaneRetriever(index=index, score_key="score").invoke(QUERY)
    assert all("score" not in document.metadata for document in plain)
    scores = [document.metadata["score"] for document in scored]
    assert scores == [hit.score for hit in index.search(QUERY, 4)]
    assert scores == sorted(scores, reverse=True)


# --- callbacks and tracing ---------------------------------------------------------------------------------------


def test_callbacks_see_one_start_and_one_end_with_tags_metadata_and_tracing_names(index):
    recorder = Recorder()
    retriever = FastLaneRetriever(index=index, tags=["rag"], metadata={"app": "docs"})
    found = retriever.invoke(QUERY, config={"callbacks": [recorder]})
    (start,) = recorder.starts
    assert start["query"] == QUERY
    assert start["tags"] == ["rag"]
    assert start["metadata"]["app"] == "docs"
    assert start["metadata"]["ls_retriever_name"] == "fastlane"
    assert start["metadata"]["ls_vector_store_provider"] == "FastLane"
    assert start["metadata"]["ls_embedding_provider"] == "FastLane"
    assert start["metadata"]["ls_embedding_model"] == index.model.name
    assert recorder.ends == [found]


def test_an_error_reaches_the_callbacks_and_the_caller(retriever):
    recorder = Recorder()
    with pytest.raises(ValueError, match=r"\$near"):
        retriever.invoke(QUERY, config={"callbacks": [recorder]}, filter={"pep": {"$near": 8}})
    assert len(recorder.errors) == 1


async def test_event_streams_carry_tags_metadata_and_documents(index):
    retriever = FastLaneRetriever(index=index, tags=["rag"], metadata={"app": "docs"})
    events = [event async for event in retriever.astream_events(QUERY, version="v2")]
    start = next(event for event in events if event["event"] == "on_retriever_start")
    end = next(event for event in events if event["event"] == "on_retriever_end")
    assert start["tags"] == ["rag"]
    assert start["metadata"]["app"] == "docs"
    assert end["data"]["output"] == retriever.invoke(QUERY)


# --- threads and the event loop ----------------------------------------------------------------------------------


async def test_batch_equals_single_calls_and_reports_each_query_once(retriever):
    queries = [QUERY, "matrix multiplication", "decorators", "a with statement", ""]
    expected = [retriever.invoke(query) for query in queries]
    recorder = Recorder()
    assert retriever.batch(queries, config={"callbacks": [recorder]}) == expected
    assert sorted(start["query"] for start in recorder.starts) == sorted(queries)
    assert len(recorder.ends) == len(queries)
    assert await retriever.abatch(queries) == expected
    assert [len(found) for found in retriever.batch(queries, k=2)] == [2] * 5


def test_batch_takes_a_config_for_each_query_and_can_return_errors(retriever):
    recorders = [Recorder(), Recorder()]
    configs = [{"callbacks": [recorder], "tags": [f"query {n}"]} for n, recorder in enumerate(recorders)]
    found = retriever.batch([QUERY, "decorators"], config=configs, k=1)
    for n, (recorder, documents) in enumerate(zip(recorders, found, strict=True)):
        assert [start["tags"] for start in recorder.starts] == [[f"query {n}"]]
        assert recorder.ends == [documents]
    assert retriever.batch([]) == []
    wrong = {"filter": {"pep": {"$near": 8}}}
    errors = retriever.batch([QUERY, "decorators"], config=configs, return_exceptions=True, **wrong)
    assert all(isinstance(error, ValueError) for error in errors)
    assert [len(recorder.errors) for recorder in recorders] == [1, 1]
    with pytest.raises(ValueError, match=r"\$near"):
        retriever.batch([QUERY, "decorators"], **wrong)


def test_many_threads_get_the_answers_one_thread_gets(retriever):
    queries = ["enumeration", "matrix multiplication", "decorators", "generators"] * 4
    expected = [retriever.invoke(query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(retriever.invoke, queries)) == expected


async def test_async_leaves_the_event_loop_free(retriever, monkeypatch):
    """Searches that wait until the loop has moved on can only finish off the loop."""
    moved_on = threading.Event()
    encode = FastLaneModel.encode_routed

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still during a search"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_routed", patient)
    tasks = [asyncio.create_task(retriever.ainvoke(QUERY)) for _ in range(3)]
    await asyncio.sleep(0.01)
    moved_on.set()
    assert [len(found) for found in await asyncio.gather(*tasks)] == [4, 4, 4]


# --- building ----------------------------------------------------------------------------------------------------


def test_from_texts_in_memory_and_on_disk(model: FastLaneModel, tmp_path):
    texts = ["Cats purr.", "Dogs bark."]
    metadatas = [{"n": 1}, {"n": 2}]
    for path in (None, tmp_path / "index"):
        retriever = FastLaneRetriever.from_texts(texts, metadatas, ["a", "b"], path=path, model=model, k=1)
        expected = [Document(id="a", page_content="Cats purr.", metadata={"n": 1})]
        assert retriever.invoke("what does a cat do?") == expected
        retriever.index.close()
    with FastLaneIndex.open(tmp_path / "index", model=model) as reopened:
        assert FastLaneRetriever(index=reopened, k=1).invoke("what does a cat do?") == expected


def test_from_documents_keeps_ids_and_leaves_the_input_alone(model):
    documents = [
        Document(id="a", page_content="Cats purr.", metadata={"n": 1}),
        Document(page_content="Dogs bark.", metadata={"n": 2}),
    ]
    before = [document.model_copy(deep=True) for document in documents]
    retriever = FastLaneRetriever.from_documents(documents, model=model)
    found = {document.page_content: document for document in retriever.invoke("animals")}
    assert documents == before
    assert found["Cats purr."] == documents[0]
    assert found["Dogs bark."].id
    assert {
        document.id for document in FastLaneRetriever.from_documents(documents, ["x", None], model=model).invoke("")
    } > {"x"}


def test_building_over_an_existing_index_needs_overwrite(model, tmp_path):
    FastLaneRetriever.from_texts(["old"], path=tmp_path / "index", model=model).index.close()
    with pytest.raises(Exception, match="overwrite"):
        FastLaneRetriever.from_texts(["new"], path=tmp_path / "index", model=model)
    retriever = FastLaneRetriever.from_texts(["new"], path=tmp_path / "index", model=model, overwrite=True)
    assert [document.page_content for document in retriever.invoke("old or new")] == ["new"]


async def test_documents_added_later_are_found_and_replaced_by_id(model):
    retriever = FastLaneRetriever.from_texts(["Cats purr."], ids=["cat"], model=model)
    assert retriever.add_documents([Document(id="dog", page_content="Dogs bark.")]) == ["dog"]
    assert await retriever.aadd_documents([Document(page_content="Dogs howl.")], ids=["dog"]) == ["dog"]
    assert {document.page_content for document in retriever.invoke("animals")} == {"Cats purr.", "Dogs howl."}


@pytest.mark.parametrize("wrong", [{"metadatas": [{}]}, {"ids": ["a"]}])
def test_lengths_that_differ_are_refused(model, wrong):
    with pytest.raises(ValueError, match="2 texts but 1"):
        FastLaneRetriever.from_texts(["Cats purr.", "Dogs bark."], **wrong, model=model)


def test_pickling_reopens_an_index_on_disk_and_explains_itself_in_memory(model, tmp_path, retriever):
    stored = FastLaneRetriever.from_texts(["Cats purr.", "Dogs bark."], path=tmp_path / "index", model=model, k=1)
    query = "what does a cat do?"
    expected = [document.page_content for document in stored.invoke(query)]
    copy = pickle.loads(pickle.dumps(stored))
    assert copy.k == 1
    assert [document.page_content for document in copy.invoke(query)] == expected
    with pytest.raises(Exception, match="memory"):
        pickle.dumps(retriever)
    assert len(retriever.invoke(QUERY)) == 4
