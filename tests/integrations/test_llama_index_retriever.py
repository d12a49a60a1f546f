"""FastLaneRetriever keeps every promise LlamaIndex's callers rely on."""

import asyncio
import pickle
import threading
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import (
    Document,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.retrievers.fastlane import FastLaneRetriever

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import FilterError

QUERY = "how do I add an enumeration type?"


@pytest.fixture(scope="module")
def nodes(corpus) -> list[TextNode]:
    return [
        TextNode(
            id_=passage.id,
            text=passage.text,
            metadata=passage.metadata,
            excluded_embed_metadata_keys=["pep", "tags"],
            excluded_llm_metadata_keys=["tags"],
            text_template="[{metadata_str}] {content}",
            metadata_template="{key}={value}",
            metadata_separator=" ",
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{passage.metadata['pep']}"),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id="another", metadata={"page": 2}),
            },
        )
        for passage in corpus
    ]


@pytest.fixture(scope="module")
def node_index(model, nodes) -> FastLaneIndex:
    return FastLaneRetriever.from_nodes(nodes, model=model).index


@pytest.fixture
def retriever(node_index) -> FastLaneRetriever:
    return FastLaneRetriever(node_index)


def eq(key: str, value: Any) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


class Recorder(BaseEventHandler):
    """Keeps every instrumentation event."""

    events: list[Any] = []  # noqa: RUF012

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


@pytest.fixture
def recorder():
    recorder = Recorder(events=[])
    root = get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


# --- results -----------------------------------------------------------------------------------------------------


def test_returns_four_scored_nodes_best_first(retriever):
    found = retriever.retrieve(QUERY)
    assert found[0].node.metadata["pep"] == 435
    scores = [scored.score for scored in found]
    assert len(scores) == 4
    assert all(type(score) is float for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_nodes_come_back_as_they_were_added(retriever, nodes):
    added = {node.node_id: node for node in nodes}
    retriever.similarity_top_k = len(nodes)
    found = [scored.node for scored in retriever.retrieve(QUERY)]
    assert len(found) == len(nodes)
    for node in found:
        assert type(node) is TextNode
        assert node.model_dump() == added[node.node_id].model_dump()
        for mode in MetadataMode:
            assert node.get_content(mode) == added[node.node_id].get_content(mode)


def test_what_is_encoded_is_the_text_meant_for_embedding_models(retriever, nodes):
    (stored,) = retriever.index.get([nodes[0].node_id])
    assert stored.text == nodes[0].get_content(MetadataMode.EMBED)
    assert nodes[0].metadata["title"] in stored.text


def test_results_are_fresh_copies(retriever):
    first = retriever.retrieve(QUERY)
    before = [(scored.score, scored.node.model_dump()) for scored in first]
    for scored in first:
        scored.score = 0.0
        scored.node.metadata["tags"].append("changed")
        scored.node.set_content("changed")
    assert [(scored.score, scored.node.model_dump()) for scored in retriever.retrieve(QUERY)] == before


def test_documents_of_an_index_made_elsewhere_become_text_nodes(index, corpus):
    stored = {passage.id: passage for passage in corpus}
    found = FastLaneRetriever(index, similarity_top_k=12).retrieve(QUERY)
    assert len(found) == 12
    for scored in found:
        assert scored.text == stored[scored.node_id].text
        assert scored.metadata == stored[scored.node_id].metadata


@pytest.mark.parametrize("remove_text", [True, False])
def test_what_another_store_of_llama_index_wrote_becomes_its_node(model, remove_text):
    """Chroma's and others keep the text beside the node; copied into an index, nodes had other ids and no text."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    written = TextNode(id_="node", text="Cats purr.", metadata={"n": 1}, relationships=source)
    with FastLaneIndex.create(model=model) as index:
        index.add(["Cats purr."], ids=["node"], metadatas=[node_to_metadata_dict(written, remove_text=remove_text)])
        assert [found.node for found in FastLaneRetriever(index).retrieve("cats")] == [written]


@pytest.mark.parametrize(
    "content",
    [
        "hello",
        "[]",
        '"text"',
        "null",
        5,
        '{"x": 1}',
        '{"metadata": {}, "text": 5}',
        '{"metadata": {}, "class_name": []}',
    ],
)
def test_a_key_of_the_same_name_that_holds_no_node_is_metadata(model, content):
    with FastLaneIndex.create(model=model) as index:
        index.add(["Cats purr."], ids=["own"], metadatas=[{"_node_content": content}])
        (found,) = FastLaneRetriever(index).retrieve("cats")
        assert (found.node_id, found.text, found.metadata) == ("own", "Cats purr.", {"_node_content": content})


@pytest.mark.parametrize("k", [0, 1, 12, 50])
def test_similarity_top_k_can_be_set_and_is_honoured(retriever, k):
    retriever.similarity_top_k = k
    assert len(retriever.retrieve(QUERY)) == min(k, 12)


def test_routing_options_reach_the_engine(node_index):
    routed = FastLaneRetriever(node_index, route_k=1, refine=False, similarity_top_k=12).retrieve(QUERY)
    expected = node_index.search(QUERY, 12, route_k=1, refine=False)
    assert [(scored.node_id, scored.score) for scored in routed] == [(hit.id, hit.relevance) for hit in expected]


# --- queries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["", " ", "?", "word " * 2000, QueryBundle(""), QueryBundle("x", custom_embedding_strs=[])]
)
async def test_odd_queries_still_answer(retriever, query):
    assert len(retriever.retrieve(query)) == 4
    assert len(await retriever.aretrieve(query)) == 4


def test_a_query_bundle_is_searched_by_its_text_whatever_its_embedding(retriever):
    plain = [scored.node_id for scored in retriever.retrieve(QUERY)]
    assert [scored.node_id for scored in retriever.retrieve(QueryBundle(QUERY))] == plain
    assert [scored.node_id for scored in retriever.retrieve(QueryBundle(QUERY, embedding=[0.1, 0.2]))] == plain


def test_one_custom_string_replaces_the_query(retriever):
    bundle = QueryBundle("irrelevant", custom_embedding_strs=[QUERY])
    assert retriever.retrieve(bundle) == retriever.retrieve(QUERY)


@pytest.mark.parametrize("normalize", [True, False])
def test_several_custom_strings_rank_by_their_mean_score(node_index, normalize):
    strings = ["enumeration type", "matrix multiplication operator"]
    score = (lambda hit: hit.relevance) if normalize else (lambda hit: hit.score)
    scores = [{hit.id: score(hit) for hit in node_index.search(text, 12)} for text in strings]
    mean = {id_: (scores[0][id_] + scores[1][id_]) / 2 for id_ in scores[0]}
    retriever = FastLaneRetriever(node_index, similarity_top_k=5, normalize_scores=normalize)
    found = retriever.retrieve(QueryBundle("x", custom_embedding_strs=strings))
    assert [scored.node_id for scored in found] == sorted(mean, key=lambda id_: (-mean[id_], id_))[:5]
    assert [scored.score for scored in found] == pytest.approx([mean[scored.node_id] for scored in found])


# --- filters -----------------------------------------------------------------------------------------------------


def test_filters_are_applied_before_ranking_and_can_be_set(retriever):
    early = MetadataFilters(filters=[MetadataFilter(key="pep", value=400, operator=FilterOperator.LT)])
    retriever.filters = early
    retriever.similarity_top_k = 5
    found = retriever.retrieve(QUERY)
    assert len(found) == 5
    assert all(scored.metadata["pep"] < 400 for scored in found)
    retriever.filters = eq("pep", 9999)
    assert retriever.retrieve(QUERY) == []


async def test_anything_but_metadata_filters_is_refused(node_index):
    retriever = FastLaneRetriever(node_index)
    retriever.filters = {"pep": 8}
    with pytest.raises(FilterError, match="MetadataFilters"):
        retriever.retrieve(QUERY)
    with pytest.raises(FilterError, match="MetadataFilters"):
        await retriever.aretrieve(QUERY)


@pytest.mark.parametrize("key", ["ref_doc_id", "doc_id", "document_id"])
def test_the_source_document_can_be_filtered_on_under_llama_index_names(retriever, key):
    retriever.filters = eq(key, "doc-435")
    assert [scored.metadata["pep"] for scored in retriever.retrieve(QUERY)] == [435]


def test_a_users_own_key_is_not_overwritten_by_those_names(model):
    node = TextNode(
        text="Cats purr.",
        metadata={"doc_id": "mine"},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="source")},
    )
    retriever = FastLaneRetriever.from_nodes([node], model=model, filters=eq("doc_id", "mine"))
    assert [scored.metadata for scored in retriever.retrieve("cat")] == [{"doc_id": "mine"}]
    retriever.filters = eq("doc_id", "source")
    assert retriever.retrieve("cat") == []


# --- events, threads, recursion ----------------------------------------------------------------------------------


async def test_each_retrieval_reports_one_start_and_one_end(node_index, recorder):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    retriever = FastLaneRetriever(node_index, callback_manager=CallbackManager([debug]))
    for asynchronous in (False, True):
        found = await retriever.aretrieve(QUERY) if asynchronous else retriever.retrieve(QUERY)
        starts = [event for event in recorder.events if isinstance(event, RetrievalStartEvent)]
        ends = [event for event in recorder.events if isinstance(event, RetrievalEndEvent)]
        assert [event.str_or_query_bundle for event in starts] == [QUERY]
        assert [event.nodes for event in ends] == [found]
        assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 1
        recorder.events.clear()
        debug.flush_event_logs()


async def test_async_returns_what_sync_returns_and_leaves_the_event_loop_free(retriever, monkeypatch):
    """Searches that wait until the loop has moved on can only finish off the loop."""
    expected = retriever.retrieve(QUERY)
    moved_on = threading.Event()
    encode = FastLaneModel.encode_routed

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still during a search"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_routed", patient)
    tasks = [asyncio.create_task(retriever.aretrieve(QUERY)) for _ in range(3)]
    await asyncio.sleep(0.01)
    moved_on.set()
    assert await asyncio.gather(*tasks) == [expected] * 3


async def test_index_nodes_lead_to_what_they_stand_for(model, retriever):
    nodes = [
        IndexNode(text="Everything about enumerations.", index_id="live", obj=retriever),
        IndexNode(text="Everything about cats.", index_id="stored", obj=TextNode(id_="cat", text="Cats purr.")),
        IndexNode(text="Everything about dogs.", index_id="dangling"),
    ]
    over = FastLaneRetriever.from_nodes(nodes, model=model, similarity_top_k=1)
    for asynchronous in (False, True):

        async def retrieve(text: str) -> list[NodeWithScore]:
            return await over.aretrieve(text) if asynchronous else over.retrieve(text)  # noqa: B023

        assert (await retrieve("enumerations"))[0].metadata["pep"] == 435
        assert [scored.text for scored in await retrieve("cats")] == ["Cats purr."]
        (dangling,) = await retrieve("dogs")
        assert isinstance(dangling.node, IndexNode)
        assert dangling.node.index_id == "dangling"
    assert nodes[0].obj is retriever, "the given node was changed"


def test_the_object_map_can_be_given(model, retriever):
    over = FastLaneRetriever.from_nodes(
        [IndexNode(text="Everything about enumerations.", index_id="enumerations")],
        model=model,
        objects=[IndexNode(text="", index_id="enumerations", obj=retriever)],
    )
    assert over.retrieve(QUERY)[0].metadata["pep"] == 435


# --- building and keeping ----------------------------------------------------------------------------------------


def test_from_documents_splits_and_keeps_the_source(model):
    documents = [Document(id_="doc", text="Cats purr when they are content. " * 30, metadata={"topic": "cats"})]
    splitter = TokenTextSplitter(chunk_size=64, chunk_overlap=0)
    retriever = FastLaneRetriever.from_documents(documents, transformations=[splitter], model=model)
    found = retriever.retrieve("cats")
    assert len(retriever.index) > 1
    assert all(isinstance(scored, NodeWithScore) for scored in found)
    assert {scored.node.ref_doc_id for scored in found} == {"doc"}
    assert {scored.metadata["topic"] for scored in found} == {"cats"}


async def test_nodes_added_later_are_found_and_replaced_by_id(model):
    retriever = FastLaneRetriever.from_nodes([TextNode(id_="cat", text="Cats purr.")], model=model)
    assert retriever.add_nodes([TextNode(id_="dog", text="Dogs bark.")]) == ["dog"]
    assert await retriever.aadd_nodes([TextNode(id_="dog", text="Dogs howl.")]) == ["dog"]
    assert {scored.text for scored in retriever.retrieve("animals")} == {"Cats purr.", "Dogs howl."}


def test_an_embedding_a_node_carries_is_neither_stored_nor_lost(model):
    node = TextNode(text="Cats purr.", embedding=[0.5] * 1024)
    retriever = FastLaneRetriever.from_nodes([node], model=model)
    assert node.embedding == [0.5] * 1024
    assert retriever.retrieve("cat")[0].node.embedding is None


def test_from_persist_dir_gives_the_same_answers(model, nodes, tmp_path):
    first = FastLaneRetriever.from_nodes(nodes, path=tmp_path / "index", model=model)
    expected = first.retrieve(QUERY)
    first.index.close()
    again = FastLaneRetriever.from_persist_dir(tmp_path / "index", model=model, similarity_top_k=4)
    assert again.retrieve(QUERY) == expected
    again.index.close()


def test_an_index_in_memory_can_be_persisted(model, nodes, retriever, tmp_path):
    expected = retriever.retrieve(QUERY)
    retriever.persist(tmp_path / "kept")
    again = FastLaneRetriever.from_persist_dir(tmp_path / "kept", model=model)
    assert [scored.node for scored in again.retrieve(QUERY)] == [scored.node for scored in expected]
    assert [scored.score for scored in again.retrieve(QUERY)] == pytest.approx([scored.score for scored in expected])


def test_pickling_reopens_an_index_on_disk_and_explains_itself_in_memory(model, nodes, retriever, tmp_path):
    stored = FastLaneRetriever.from_nodes(nodes[:3], path=tmp_path / "index", model=model, similarity_top_k=2)
    expected = stored.retrieve(QUERY)
    copy = pickle.loads(pickle.dumps(stored))
    assert copy.retrieve(QUERY) == expected
    with pytest.raises(Exception, match="memory"):
        pickle.dumps(retriever)
    assert len(retriever.retrieve(QUERY)) == 4
