"""FastLaneVectorStore keeps every promise LangChain's callers rely on."""

import asyncio
import pickle
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex
from langchain_core.indexing import index as index_documents
from langchain_fastlane import FastLaneVectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import InvalidInputError

QUERY = "how do I add an enumeration type?"
CATS_AND_DOGS = ["Cats purr.", "Dogs bark."]


class TestStandardSuiteInMemory(VectorStoreIntegrationTests):
    """LangChain's own suite, unchanged."""

    @pytest.fixture
    def vectorstore(self, model: FastLaneModel) -> FastLaneVectorStore:
        return FastLaneVectorStore(model=model)


class TestStandardSuiteOnDisk(VectorStoreIntegrationTests):
    """LangChain's own suite, unchanged."""

    @pytest.fixture
    def vectorstore(self, model: FastLaneModel, tmp_path: Path) -> Iterator[FastLaneVectorStore]:
        with FastLaneIndex.create(tmp_path / "index", model=model) as engine:
            yield FastLaneVectorStore(engine)


@pytest.fixture(scope="module")
def store(index: FastLaneIndex) -> FastLaneVectorStore:
    """Over the shared corpus; only read."""
    return FastLaneVectorStore(index)


@pytest.fixture
def empty(model: FastLaneModel) -> FastLaneVectorStore:
    return FastLaneVectorStore(model=model)


# --- adding ------------------------------------------------------------------------------------------------------


def test_ids_come_back_in_input_order_and_are_generated_where_missing(empty):
    documents = [Document(id="own", page_content="Cats purr."), Document(page_content="Dogs bark.")]
    first = empty.add_documents(documents)
    assert first[0] == "own"
    assert first[1] not in (None, "", "own")
    assert empty.add_documents(documents, ids=["x", "y"]) == ["x", "y"]
    assert empty.add_documents(documents, ids=None) != ["x", "y"]
    mixed = empty.add_texts(CATS_AND_DOGS, ids=["x", None])
    assert mixed[0] == "x"
    assert mixed[1] not in (None, "", "x")


def test_the_same_id_replaces_within_a_call_and_across_calls(empty):
    assert empty.add_texts(["old", "new"], ids=["a", "a"]) == ["a", "a"]
    assert [document.page_content for document in empty.get_by_ids(["a"])] == ["new"]
    empty.add_texts(["newest"], ids=["a"])
    assert [document.page_content for document in empty.similarity_search("old new newest")] == ["newest"]


@pytest.mark.parametrize("wrong", [{"metadatas": [{}]}, {"ids": ["a"]}, {"ids": []}])
async def test_lengths_that_differ_are_refused_and_nothing_is_stored(empty, wrong):
    with pytest.raises(ValueError, match="2 texts but"):
        empty.add_texts(CATS_AND_DOGS, **wrong)
    with pytest.raises(ValueError, match="2 texts but"):
        await empty.aadd_texts(CATS_AND_DOGS, **wrong)
    assert len(empty.index) == 0


def test_texts_may_be_any_iterable_and_inputs_are_not_changed(empty):
    metadata = {"n": 1, "tags": ["a"]}
    empty.add_texts((text for text in ["Cats purr."]), [metadata])
    (found,) = empty.similarity_search("cats")
    found.metadata["tags"].append("b")
    assert metadata == {"n": 1, "tags": ["a"]}
    assert empty.similarity_search("cats")[0].metadata == metadata


def test_metadata_that_is_not_json_is_named_in_the_error(empty):
    with pytest.raises(ValueError, match="when"):
        empty.add_texts(["Cats purr."], [{"when": object()}])
    assert len(empty.index) == 0


def test_misspelt_arguments_are_refused(empty):
    for call in (
        lambda: empty.add_texts(["x"], metadata=[{}]),
        lambda: empty.add_documents([Document(page_content="x")], id=["a"]),
        lambda: empty.similarity_search("x", top_k=3),
        lambda: empty.similarity_search_with_score("x", where={}),
        lambda: empty.similarity_search_with_relevance_scores("x", where={}),
        lambda: empty.max_marginal_relevance_search("x", fetchk=3),
    ):
        with pytest.raises(TypeError, match="unexpected keyword"):
            call()


async def test_from_texts_and_from_documents_sync_and_async(model, tmp_path):
    documents = [Document(id=str(n), page_content=text, metadata={"n": n}) for n, text in enumerate(CATS_AND_DOGS)]
    metadatas = [{"n": 0}, {"n": 1}]
    stores = [
        FastLaneVectorStore.from_texts(CATS_AND_DOGS, model, metadatas, ids=["0", "1"]),
        FastLaneVectorStore.from_texts(CATS_AND_DOGS, model, metadatas, ids=["0", "1"], path=tmp_path / "a"),
        await FastLaneVectorStore.afrom_texts(CATS_AND_DOGS, model, metadatas, ids=["0", "1"]),
        FastLaneVectorStore.from_documents(documents, model),
        await FastLaneVectorStore.afrom_documents(documents, model, path=tmp_path / "b"),
    ]
    for built in stores:
        assert built.similarity_search("what does a cat do?", k=1) == documents[:1]
        built.index.close()
    with FastLaneIndex.open(tmp_path / "b", model=model) as reopened:
        assert FastLaneVectorStore(reopened).similarity_search("what does a cat do?", k=1) == documents[:1]


def test_a_dense_embedding_model_is_passed_over_with_a_warning(monkeypatch, model):
    build = FastLaneIndex.build
    given = []

    def remembering(path: Any = None, **options: Any) -> AbstractContextManager[FastLaneIndex]:
        given.append(options.get("model"))
        return build(path, **{**options, "model": model})

    monkeypatch.setattr(FastLaneIndex, "build", remembering)
    with pytest.warns(UserWarning, match="DeterministicFakeEmbedding is not used"):
        FastLaneVectorStore.from_texts(CATS_AND_DOGS, DeterministicFakeEmbedding(size=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FastLaneVectorStore.from_texts(CATS_AND_DOGS)
    assert given == [None, None]


def test_an_index_and_a_model_together_are_refused(store, model):
    with pytest.raises(ValueError, match="not both"):
        FastLaneVectorStore(store.index, model=model)


def test_there_is_no_single_vector(store):
    assert store.embeddings is None
    assert store.as_retriever().tags == ["FastLaneVectorStore"]
    for search in (store.similarity_search_by_vector, store.max_marginal_relevance_search_by_vector):
        with pytest.raises(InvalidInputError, match="give similarity_search the text"):
            search([0.1])


# --- deleting and reading ----------------------------------------------------------------------------------------


async def test_delete_ignores_missing_ids_and_never_returns_false(empty):
    empty.add_texts(CATS_AND_DOGS, ids=["cat", "dog"])
    assert empty.delete(["dog", "none"]) is True
    assert empty.delete([]) is True
    assert await empty.adelete(["none"]) is True
    assert empty.index.ids() == ["cat"]


async def test_delete_none_deletes_everything_and_a_filter_only_what_matches(empty):
    empty.add_texts(CATS_AND_DOGS, [{"legs": 4}, {"legs": 3}], ids=["cat", "dog"])
    assert empty.delete(filter={"legs": 3}) is True
    assert empty.index.ids() == ["cat"]
    assert empty.delete(None) is True
    assert empty.index.ids() == []
    empty.add_texts(CATS_AND_DOGS)
    assert await empty.adelete() is True
    assert empty.similarity_search("cat") == []


async def test_get_by_ids_keeps_the_order_and_leaves_missing_ids_out(store, corpus):
    wanted = [corpus[3].id, "none", corpus[0].id]
    found = store.get_by_ids(wanted)
    assert [document.id for document in found] == [corpus[3].id, corpus[0].id]
    assert [document.page_content for document in found] == [corpus[3].text, corpus[0].text]
    assert await store.aget_by_ids(wanted) == found
    assert store.get_by_ids([]) == []


# --- searching ---------------------------------------------------------------------------------------------------


async def test_scores_are_the_engines_own_best_first(store):
    found = store.similarity_search_with_score(QUERY, k=3)
    assert [(document.id, score) for document, score in found] == [
        (hit.id, hit.score) for hit in store.index.search(QUERY, 3)
    ]
    assert await store.asimilarity_search_with_score(QUERY, k=3) == found
    assert store.similarity_search(QUERY, k=3) == [document for document, _ in found]
    assert await store.asimilarity_search(QUERY, k=3) == [document for document, _ in found]


@pytest.mark.parametrize(
    "filter_", [{"pep": {"$lt": 400}}, {"tags": {"$contains": "early"}}, lambda metadata: metadata["pep"] < 400]
)
async def test_filters_come_before_ranking_in_every_search(store, filter_):
    searches = [
        store.similarity_search(QUERY, k=5, filter=filter_),
        await store.asimilarity_search(QUERY, k=5, filter=filter_),
        [found for found, _ in store.similarity_search_with_score(QUERY, k=5, filter=filter_)],
        [found for found, _ in store.similarity_search_with_relevance_scores(QUERY, k=5, filter=filter_)],
        store.max_marginal_relevance_search(QUERY, k=5, filter=filter_),
        store.as_retriever(search_kwargs={"k": 5, "filter": filter_}).invoke(QUERY),
    ]
    for found in searches:
        assert len(found) == 5
        assert all(document.metadata["pep"] < 400 for document in found)
    assert store.similarity_search(QUERY, filter={"pep": -1}) == []


async def test_a_retriever_takes_options_at_top_level_and_a_call_narrows_its_filter(store):
    early, late = {"pep": {"$lt": 400}}, {"pep": {"$gt": 300}}
    retriever = store.as_retriever(filter=early, k=12)
    assert retriever == store.as_retriever(search_kwargs={"filter": early, "k": 12})
    assert {document.metadata["pep"] for document in retriever.invoke(QUERY)} == {8, 255, 279, 318, 343, 371}
    for found in (retriever.invoke(QUERY, filter=late), await retriever.ainvoke(QUERY, filter=late)):
        assert {document.metadata["pep"] for document in found} == {318, 343, 371}
    assert len(retriever.invoke(QUERY, filter=late, override_filter=True)) == 9
    varied = store.as_retriever(search_type="mmr", k=2, fetch_k=3, lambda_mult=1.0, filter=early)
    assert len(varied.invoke(QUERY)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": {"pep": 8}}, "'filters' is an unexpected keyword argument of a search; did you mean 'filter'"),
        ({"search_kwargs": {"top_k": 2}}, "'top_k' is an unexpected keyword"),
        ({"search_kwargs": {"override_filter": True}}, "'override_filter' is an unexpected keyword"),
        ({"k": 2, "search_kwargs": {"k": 3}}, "'k' is given to as_retriever and in search_kwargs"),
        ({"k": -1}, "k must be a whole number"),
    ],
)
def test_a_retriever_refuses_what_it_would_ignore(store, options, message):
    with pytest.raises(InvalidInputError, match=message):
        store.as_retriever(**options)


async def test_relevance_is_the_mean_token_similarity_moved_to_0_1(store, model):
    tokens = len(model.encode_queries([QUERY])[0])
    scored = store.similarity_search_with_score(QUERY, k=12)
    relevant = store.similarity_search_with_relevance_scores(QUERY, k=12)
    assert [found for found, _ in relevant] == [found for found, _ in scored]
    assert [relevance for _, relevance in relevant] == pytest.approx(
        [min(max((score / tokens + 1) / 2, 0), 1) for _, score in scored]
    )
    assert all(0 <= relevance <= 1 for _, relevance in relevant)
    assert await store.asimilarity_search_with_relevance_scores(QUERY, k=12) == relevant


@pytest.mark.parametrize("options", [{"route_k": 1, "refine": False}, {"route_k": 3, "refine": False}, {"route_k": 1}])
@pytest.mark.parametrize("query", ["", "enumeration", QUERY, "word " * 500])
def test_relevance_stays_in_0_1_however_many_tokens_are_scored(store, query, options):
    relevances = [found for _, found in store.similarity_search_with_relevance_scores(query, k=12, **options)]
    assert all(0 <= relevance <= 1 for relevance in relevances)
    assert relevances == sorted(relevances, reverse=True)


def test_a_text_is_wholly_relevant_to_itself(empty):
    empty.add_texts(CATS_AND_DOGS)
    (_, best), (_, other) = empty.similarity_search_with_relevance_scores("Cats purr.", k=2)
    assert best > 0.9
    assert other < best


async def test_a_score_threshold_cuts_by_relevance(store):
    relevances = [found for _, found in store.similarity_search_with_relevance_scores(QUERY, k=4)]
    threshold = (relevances[1] + relevances[2]) / 2
    arguments = {"k": 4, "score_threshold": threshold}
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=arguments)
    assert len(retriever.invoke(QUERY)) == 2
    assert len(await retriever.ainvoke(QUERY)) == 2


async def test_mmr_prefers_variety_over_repetition(empty):
    texts = ["Cats purr when content.", "Cats purr when they are content.", "Dogs bark at strangers."]
    empty.add_texts(texts, ids=["a", "b", "c"])
    query = "when do cats purr?"
    assert {found.id for found in empty.similarity_search(query, k=2)} == {"a", "b"}
    varied = empty.max_marginal_relevance_search(query, k=2, lambda_mult=0.3)
    assert varied[0] == empty.similarity_search(query, k=1)[0]
    assert varied[1].id == "c"
    assert await empty.amax_marginal_relevance_search(query, k=2, lambda_mult=0.3) == varied
    assert empty.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.3}).invoke(query) == varied
    by_relevance = empty.max_marginal_relevance_search(query, k=3, lambda_mult=1.0)
    assert by_relevance == empty.similarity_search(query, k=3)


def test_mmr_at_its_limits(empty):
    assert empty.max_marginal_relevance_search("x") == []
    empty.add_texts(CATS_AND_DOGS)
    assert empty.max_marginal_relevance_search("x", k=0) == []
    assert len(empty.max_marginal_relevance_search("x", k=5, fetch_k=1)) == 2
    with pytest.raises(ValueError, match="0 to 1"):
        empty.max_marginal_relevance_search("x", lambda_mult=2)


async def test_async_leaves_the_event_loop_free(store, monkeypatch):
    """Searches that wait until the loop has moved on can only finish off the loop."""
    moved_on = threading.Event()
    encode = FastLaneModel.encode_routed

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still during a search"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_routed", patient)
    tasks = [
        asyncio.create_task(store.asimilarity_search(QUERY)),
        asyncio.create_task(store.asimilarity_search_with_relevance_scores(QUERY)),
        asyncio.create_task(store.amax_marginal_relevance_search(QUERY)),
    ]
    await asyncio.sleep(0.01)
    moved_on.set()
    assert [len(found) for found in await asyncio.gather(*tasks)] == [4, 4, 4]


def test_pickling_reopens_an_index_on_disk_and_explains_itself_in_memory(model, tmp_path, store):
    stored = FastLaneVectorStore.from_texts(CATS_AND_DOGS, model, path=tmp_path / "index")
    expected = stored.similarity_search("cats")
    assert pickle.loads(pickle.dumps(stored)).similarity_search("cats") == expected
    with pytest.raises(Exception, match="memory"):
        pickle.dumps(store)
    assert len(store.similarity_search(QUERY)) == 4


# --- index() -----------------------------------------------------------------------------------------------------


def sources(*texts: str) -> list[Document]:
    return [Document(page_content=text, metadata={"source": text.split()[0]}) for text in texts]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_indexing_api_adds_skips_replaces_and_cleans_up(empty, asynchronous):
    async def run(*args: Any, **options: Any) -> dict[str, int]:
        return await aindex(*args, **options) if asynchronous else index_documents(*args, **options)

    records = InMemoryRecordManager("fastlane")
    records.create_schema()
    options = {"source_id_key": "source", "key_encoder": "sha256", "batch_size": 1}

    def counted(result: dict[str, int]) -> tuple[int, int, int]:
        return result["num_added"], result["num_skipped"], result["num_deleted"]

    first = sources("cats purr", "dogs bark")
    assert counted(await run(first, records, empty, cleanup="incremental", **options)) == (2, 0, 0)
    assert counted(await run(first, records, empty, cleanup="incremental", **options)) == (0, 2, 0)
    changed = sources("cats hiss")
    assert counted(await run(changed, records, empty, cleanup="incremental", **options)) == (1, 0, 1)
    assert {found.page_content for found in empty.similarity_search("animals")} == {"cats hiss", "dogs bark"}
    assert counted(await run(changed, records, empty, cleanup="full", **options)) == (0, 1, 1)
    assert [found.page_content for found in empty.similarity_search("animals")] == ["cats hiss"]
    assert counted(await run([], records, empty, cleanup="full", **options)) == (0, 0, 1)
    assert len(empty.index) == 0
