"""What users of Chroma, Qdrant and LlamaIndex's stores expect of a store and a retriever, in both frameworks alike."""

import datetime as dt
import uuid
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_fastlane import FastLaneReranker
from langchain_fastlane import FastLaneRetriever as LangChainRetriever
from langchain_fastlane import FastLaneVectorStore as LangChainStore
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import Document as NodeDocument
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneSearchEvent
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError

QUERY = "how do I add an enumeration type?"


@pytest.fixture(scope="module")
def store(index) -> LangChainStore:
    return LangChainStore(index)


@pytest.fixture(scope="module")
def nodes(index) -> NodeStore:
    return NodeStore(index)


def asked(**options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=options.pop("text", QUERY), similarity_top_k=5, **options)


# --- scores ------------------------------------------------------------------------------------------------------


async def test_a_threshold_is_an_option_of_every_search(index, store, nodes):
    relevances = [hit.relevance for hit in index.search(QUERY, 5)]
    told = {"score_threshold": (relevances[1] + relevances[2]) / 2}
    expected = [hit.id for hit in index.search(QUERY, 2)]
    retriever = LangChainRetriever(index=index, k=5)
    found = [
        store.similarity_search(QUERY, 5, **told),
        [one for one, _ in store.similarity_search_with_score(QUERY, 5, **told)],
        [one for one, _ in store.similarity_search_with_relevance_scores(QUERY, 5, **told)],
        store.as_retriever(k=5, **told).invoke(QUERY),
        retriever.invoke(QUERY, **told),
        await retriever.ainvoke(QUERY, **told),
        LangChainRetriever(index=index, k=5, **told).invoke(QUERY),
    ]
    assert [[one.id for one in documents] for documents in found] == [expected] * len(found)
    assert nodes.query(asked(), **told).ids == expected
    assert [one.node_id for one in NodeRetriever(index, 5, **told).retrieve(QUERY)] == expected


def test_rerankers_take_a_threshold(model, corpus):
    documents = [Document(id=passage.id, page_content=passage.text) for passage in corpus]
    ranking = FastLaneReranker(model=model, top_n=3).compress_documents(iter(documents), QUERY)
    least = ranking[1].metadata["relevance_score"]
    assert len(FastLaneReranker(model=model, top_n=3, score_threshold=least).compress_documents(documents, QUERY)) == 2
    given = [NodeWithScore(node=TextNode(id_=passage.id, text=passage.text)) for passage in corpus]
    found = FastLaneRerank(model, 3, score_threshold=least).postprocess_nodes(given, query_str=QUERY)
    assert [one.node_id for one in found] == [document.id for document in ranking[:2]]


def test_cutoffs_of_llama_index_cut(index):
    """SumMaxSim of this query is above 1 for every passage, so a cutoff on it keeps all."""
    retriever = NodeRetriever(index, similarity_top_k=12)
    scores = [one.score for one in retriever.retrieve(QUERY)]
    assert all(0 <= score <= 1 for score in scores)
    cutoff = SimilarityPostprocessor(similarity_cutoff=(scores[2] + scores[3]) / 2)
    assert len(cutoff.postprocess_nodes(retriever.retrieve(QUERY))) == 3
    retriever.normalize_scores = False
    assert [one.score for one in retriever.retrieve(QUERY)] == [hit.score for hit in index.search(QUERY, 12)]


def test_the_raw_score_goes_into_metadata_on_request_and_into_no_prompt(model, index):
    raw = {hit.id: hit.score for hit in index.search(QUERY, 5)}
    plain = {one.node_id: one for one in NodeRetriever(index, 5).retrieve(QUERY)}
    scored = NodeRetriever(index, 5, score_key="sum_max_sim").retrieve(QUERY)
    result = NodeStore(index, score_key="sum_max_sim").query(asked())
    given = [one.model_copy(deep=True) for one in plain.values()]
    reranked = FastLaneRerank(model, 5, score_key="sum_max_sim").postprocess_nodes(given, query_str=QUERY)
    for node in [*(one.node for one in scored), *result.nodes]:
        assert node.metadata.pop("sum_max_sim") == raw[node.node_id]
        assert node.metadata == plain[node.node_id].metadata
    for one in [*NodeRetriever(index, 5, score_key="sum_max_sim").retrieve(QUERY), *reranked]:
        assert one.metadata["sum_max_sim"] > 1
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert one.get_content(mode) == plain[one.node_id].get_content(mode)
    assert all("sum_max_sim" not in one.metadata for one in given)


def test_fusion_knows_a_node_by_its_metadata(index):
    """Why the raw score is in metadata on request alone: two queries give one node, not two."""

    class Asked(BaseRetriever):
        def __init__(self, text: str) -> None:
            self.text = text
            super().__init__()

        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return NodeRetriever(index, 12).retrieve(self.text)

    both = QueryFusionRetriever(
        [Asked(QUERY), Asked("enum")], llm=MockLLM(), mode="reciprocal_rerank", num_queries=1, similarity_top_k=24
    )
    assert len(both.retrieve(QUERY)) == 12


# --- hybrid ------------------------------------------------------------------------------------------------------


def test_query_modes_of_llama_index(index, nodes):
    text = "__matmul__ PEP 465"

    def found(mode: VectorStoreQueryMode, **options: Any) -> list[str]:
        return nodes.query(asked(text=text, mode=mode, **options)).ids

    def expected(k: int = 5, **options: Any) -> list[str]:
        return [hit.id for hit in index.search(text, k, **options)]

    hybrid, words = VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH
    assert found(hybrid) == expected(hybrid=True)
    assert found(hybrid, alpha=0.4) == expected(hybrid=0.6)
    assert found(hybrid, alpha=1.0) == expected()
    assert found(hybrid, alpha=0.0) == expected(hybrid=1.0)
    assert found(hybrid, hybrid_top_k=2) == expected(2, hybrid=True)
    assert found(words) == found(VectorStoreQueryMode.SPARSE) == expected(lane="words")
    assert found(words, sparse_top_k=1) == expected(1, lane="words")
    with pytest.raises(ValueError, match="alpha must be"):
        found(hybrid, alpha=2)
    over = VectorStoreIndex.from_vector_store(nodes, embed_model=MockEmbedding(embed_dim=1))
    retriever = over.as_retriever(vector_store_query_mode="hybrid", alpha=0.4, similarity_top_k=5)
    assert [one.node_id for one in retriever.retrieve(text)] == expected(hybrid=0.6)


# --- filters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter_",
    [
        lambda document: document.metadata["pep"] == 435 and "enum" in document.page_content.lower(),
        lambda document: document.metadata.get("pep") == 435 and document.id.startswith("pep"),
        lambda metadata: metadata["pep"] == 435,
        {"pep": 435},
    ],
    ids=["document", "id", "metadata", "dict"],
)
async def test_a_filter_may_be_a_function_of_a_document_as_in_memory_vector_store_has_it(index, store, filter_):
    expected = [document.id for document in store.similarity_search(QUERY, 12, {"pep": 435})]
    assert expected
    retriever = LangChainRetriever(index=index, k=12, filter=filter_)
    calls = [
        store.similarity_search(QUERY, 12, filter_),
        [one for one, _ in store.similarity_search_with_score(QUERY, 12, filter_)],
        [one for one, _ in store.similarity_search_with_relevance_scores(QUERY, 12, filter=filter_)],
        store.max_marginal_relevance_search(QUERY, 12, filter=filter_),
        store.as_retriever(k=12, filter=filter_).invoke(QUERY),
        store.as_retriever(k=12, filter={"pep": {"$gt": 400}}).invoke(QUERY, filter=filter_),
        retriever.invoke(QUERY),
        await retriever.ainvoke(QUERY, filter={"pep": {"$gt": 400}}),
        retriever.batch([QUERY])[0],
        store.get(where=filter_),
    ]
    assert [[document.id for document in found] for found in calls] == [expected] * len(calls)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (MetadataFilter(key="tags", value="early"), 6),
        (MetadataFilter(key="tags", value="early", operator="!="), 6),
        (MetadataFilter(key="tags", value=["late", "x"], operator="in"), 6),
        (MetadataFilter(key="tags", value=["late"], operator="nin"), 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("also", [[], [MetadataFilter(key="absent", value=None, operator="is_empty")]])
def test_lists_match_by_their_elements(nodes, one, expected, also):
    """In the catalogue, and beside what only a function can say."""
    for filters in ([one, *also], [MetadataFilters(filters=[one, *also], condition="and")]):
        found = nodes.get(MetadataFilters(filters=filters))
        assert len(found) == expected
    either = MetadataFilters(filters=[one, *also], condition="or")
    assert len(nodes.get(either)) == (12 if also else expected)


# --- reading and changing ----------------------------------------------------------------------------------------


def test_get_reads_pages_in_both_stores(index, store, nodes, corpus):
    ids = [passage.id for passage in corpus]
    assert [document.id for document in store.get()] == ids
    assert store.get(limit=2, offset=3) == store.get_by_ids(ids[3:5])
    early = {"tags": "early"}
    assert [one.id for one in store.get(where=early, limit=2)] == [one.id for one in index.find(early, limit=2)]
    assert [document.id for document in store.get(ids[:3], where={"pep": {"$gt": 8}})] == ids[1:3]
    assert store.get([]) == []
    assert [node.node_id for node in nodes.get(limit=2, offset=3)] == ids[3:5]
    wanted = MetadataFilters(filters=[MetadataFilter(key="tags", value="early")])
    assert [node.node_id for node in nodes.get(wanted)] == [node.node_id for node in nodes.get(early)]


def test_id_key_lets_an_ensemble_tell_documents_apart(model):
    from langchain_classic.retrievers import EnsembleRetriever

    texts = ["Cats purr.", "Cats purr.", "Dogs bark."]
    store = LangChainStore(FastLaneIndex.create(model=model), id_key="id")
    store.add_texts(texts, ids=["a", "b", "c"])
    retriever = LangChainRetriever(index=store.index, id_key="id", k=3)
    ensemble = EnsembleRetriever(retrievers=[retriever, store.as_retriever(k=3)], id_key="id")
    assert sorted(document.metadata["id"] for document in ensemble.invoke("cats")) == ["a", "b", "c"]
    assert store.get_by_ids(["a"])[0].metadata == {"id": "a"}
    assert LangChainStore(store.index).get_by_ids(["a"])[0].metadata == {}


def test_documents_are_updated_and_a_collection_deleted(model):
    store = LangChainStore(model=model)
    store.add_texts(["Cats purr.", "Dogs bark."], [{"n": 1}, {"n": 2}], ids=["cat", "dog"])
    store.update_document("cat", Document(page_content="Cats hiss.", metadata={"n": 3}))
    store.update_documents(iter(["dog"]), iter([Document(page_content="Dogs howl.")]))
    assert [(one.page_content, one.metadata) for one in store.get()] == [("Cats hiss.", {"n": 3}), ("Dogs howl.", {})]
    with pytest.raises(InvalidInputError, match="no document has the id 'bird'"):
        store.update_documents(["cat", "bird"], [Document(page_content="x"), Document(page_content="y")])
    assert store.get_by_ids(["cat"])[0].page_content == "Cats hiss."
    store.delete_collection()
    assert store.get() == []
    store.add_texts(["Birds sing."])
    assert len(store.get()) == 1


# --- what one framework stored, in the other ---------------------------------------------------------------------


def test_an_index_of_llama_index_is_clean_in_langchain(model):
    """Case 27: no node as JSON in the metadata, no metadata in the text."""
    document = NodeDocument(id_="doc", text="Cats purr.", metadata={"topic": "cats", "n": 1})
    node = TextNode(id_="node", text="Dogs bark.", metadata={"topic": "dogs"}, text_template="{content} {metadata_str}")
    retriever = NodeRetriever.from_nodes([document, node], model=model)
    store = LangChainStore(retriever.index)
    expected = [
        Document(id="doc", page_content="Cats purr.", metadata={"topic": "cats", "n": 1}),
        Document(id="node", page_content="Dogs bark.", metadata={"topic": "dogs"}),
    ]
    assert store.get() == store.get_by_ids(["doc", "node"]) == expected
    assert store.similarity_search("cats", 1) == expected[:1]
    assert store.similarity_search("cats", 4, lambda one: one.page_content == "Dogs bark.") == expected[1:]
    assert LangChainRetriever(index=retriever.index, k=1).invoke("cats") == expected[:1]
    store.add_documents(store.get())
    first = retriever.retrieve("cats")[0]
    assert (first.text, first.metadata) == ("Cats purr.", {"topic": "cats", "n": 1})


def test_metadata_is_alike_in_both_adapters_and_on_every_path(model):
    """Case 26: the same values for the same things, added, updated and read."""
    given = {"day": dt.date(2024, 2, 29), "uuid": uuid.UUID(int=7), "nested": {"at": [dt.time(12, 30)]}}
    stored = {"day": "2024-02-29", "uuid": str(uuid.UUID(int=7)), "nested": {"at": ["12:30:00"]}}
    store = LangChainStore(model=model)
    store.add_documents([Document(id="a", page_content="Cats purr.", metadata=given)])
    store.add_texts(["Cats hiss."], [given], ids=["b"])
    store.update_document("b", Document(page_content="Cats hiss.", metadata=given))
    nodes = NodeStore(store.index)
    nodes.add([TextNode(id_="c", text="Dogs bark.", metadata=given)])
    store.add_texts(["Birds sing."], ids=["d"])
    store.index.update_metadata(["d"], [given])
    assert [document.metadata for document in store.get()] == [stored] * 4
    assert [node.metadata for node in nodes.get()] == [stored] * 4
    for wrong in (float("nan"), b"bytes"):
        for change in (
            lambda: store.update_document("a", Document(page_content="x", metadata={"deep": [wrong]})),  # noqa: B023
            lambda: store.index.update_metadata(["a"], [{"deep": [wrong]}]),  # noqa: B023
            lambda: nodes.add([TextNode(text="x", metadata={"deep": [wrong]})]),  # noqa: B023
        ):
            with pytest.raises(InvalidInputError, match=r"\['deep'\]\[0\]"):
                change()


# --- wrong arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("docs.index", r"FastLaneIndex\.open\('docs\.index'\)"),
        (DeterministicFakeEmbedding(size=4), "no embedding model is needed"),
        (MockEmbedding(embed_dim=4), "no embedding model is needed"),
        (3, r"FastLaneIndex\.create\(\)"),
    ],
    ids=["path", "langchain embeddings", "llama-index embeddings", "number"],
)
def test_a_first_argument_that_is_no_index_is_refused_with_advice(wrong, advice):
    """Case 22."""
    for make in (LangChainStore, NodeStore, NodeRetriever, lambda index: LangChainRetriever(index=index)):
        with pytest.raises(ValueError, match=f"index must be a FastLaneIndex.*{advice}"):
            make(wrong)


@pytest.mark.parametrize("wrong", [{"top_k": 1}, {"model_name": "zzz"}])
def test_a_reranker_swallows_no_keyword(model, wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        FastLaneRerank(model, **wrong)


async def test_a_batch_returns_errors_one_by_one_in_sync_and_async_calls(index):
    """Case 23."""

    class Ends(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.seen.append("end")

        def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
            self.seen.append("error")

    retriever, ends = LangChainRetriever(index=index, k=2), Ends()
    expected = retriever.invoke(QUERY)
    found = retriever.batch([QUERY, None, QUERY], config={"callbacks": [ends]}, return_exceptions=True)
    later = await retriever.abatch([QUERY, None, QUERY], return_exceptions=True)
    for batch in (found, later):
        assert batch[0] == batch[2] == expected
        assert isinstance(batch[1], InvalidInputError)
    assert ends.seen == ["end", "error", "end"]
    with pytest.raises(InvalidInputError):
        retriever.batch([QUERY, None])
    assert retriever.batch(iter([QUERY])) == [expected]


def test_a_query_without_text_says_what_to_do(nodes):
    """Case 24."""
    with pytest.raises(ValueError, match=r"give query_str.*HyDE.*FastLaneRetriever\(store\.client\)"):
        nodes.query(VectorStoreQuery(query_embedding=[0.1]))


def test_generators_are_taken_everywhere(model):
    """Case 25."""
    texts = ["Cats purr.", "Dogs bark."]

    def made(kind: Any) -> Any:
        return (kind(text) for text in texts)

    built = [
        NodeRetriever.from_documents(made(lambda text: NodeDocument(text=text)), model=model).index,
        NodeRetriever.from_nodes(made(lambda text: TextNode(text=text)), model=model).index,
        LangChainRetriever.from_documents(made(lambda text: Document(page_content=text)), model=model).index,
        LangChainRetriever.from_texts(iter(texts), iter([{}, {}]), iter("ab"), model=model).index,
        LangChainStore.from_texts(iter(texts), model, iter([{}, {}]), ids=iter("ab")).index,
        LangChainStore.from_documents(made(lambda text: Document(page_content=text)), model).index,
    ]
    nodes = NodeStore(model=model)
    nodes.add(made(lambda text: TextNode(text=text)))
    assert [len(index) for index in [*built, nodes.client]] == [2] * 7
    retriever = NodeRetriever(nodes.client)
    assert len(retriever.add_nodes(made(lambda text: TextNode(text=text)))) == 2
    given = (NodeWithScore(node=TextNode(text=text)) for text in texts)
    assert len(FastLaneRerank(model).postprocess_nodes(given, query_str="cats")) == 2


# --- what a search took ------------------------------------------------------------------------------------------


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


async def test_langchains_callbacks_learn_what_a_search_took(index, store):
    retriever = LangChainRetriever(index=index, k=2)
    for runnable in (retriever, store.as_retriever(k=2), store.as_retriever(k=2, search_type="mmr")):
        for call in (runnable.invoke, runnable.ainvoke, lambda query, config, r=runnable: r.batch([query], config)):
            runs, events = RunCollectorCallbackHandler(), Events()
            found = call(QUERY, {"callbacks": [runs, events]})
            if not isinstance(found, list):
                await found
            [run] = runs.traced_runs
            taken = run.extra["metadata"]["fastlane"]
            assert taken["lane"] == "exhaustive"
            assert taken["comparisons"] > 0
            assert sum(taken["milliseconds"].values()) > 0
            assert events.seen == [("fastlane_search", taken)]
    runs = RunCollectorCallbackHandler()
    retriever.batch([QUERY, "enum"], {"callbacks": [runs]}, lane="words")
    assert [run.extra["metadata"]["fastlane"]["lane"] for run in runs.traced_runs] == ["words", "words"]


class Recorder(BaseEventHandler):
    events: list[Any] = []  # noqa: RUF012

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


async def test_llama_indexs_events_carry_what_a_search_took(index):
    recorder, root = Recorder(events=[]), get_dispatcher()
    context = StorageContext.from_defaults(vector_store=NodeStore(index))
    over = VectorStoreIndex([], storage_context=context, embed_model=MockEmbedding(embed_dim=1))
    root.add_event_handler(recorder)
    try:
        NodeRetriever(index, lane="words").retrieve(QUERY)
        await NodeRetriever(index).aretrieve(QueryBundle("x", custom_embedding_strs=[QUERY, "enum"]))
        over.as_retriever(similarity_top_k=3).retrieve(QUERY)
    finally:
        root.event_handlers.remove(recorder)
    taken = [event for event in recorder.events if isinstance(event, FastLaneSearchEvent)]
    assert [event.lane for event in taken] == ["words", "exhaustive", "exhaustive", "exhaustive"]
    assert [event.hits for event in taken][-1] == 3
    assert all(event.comparisons > 0 for event in taken[1:])
    assert all(event.milliseconds["fetch"] > 0 for event in taken)
    assert {event.class_name() for event in taken} == {"FastLaneSearchEvent"}
