"""The frameworks' adapters take an index on a server unchanged, and pass the frameworks' own suites with it."""

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_fastlane import FastLaneRetriever, FastLaneVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneSearchEvent
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore
from word_model import WordModel

from fastlane_rag import FastLaneIndex, RemoteIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.settings import ServeSettings


class TestVectorStoreSuite(VectorStoreIntegrationTests):
    """LangChain's own suite, unchanged."""

    @pytest.fixture
    def vectorstore(self, running):
        with FastLaneIndex.create(model=WordModel()) as index:
            yield FastLaneVectorStore(RemoteIndex(running(create_app(ServeSettings(), {"docs": index})).url))


class TestRetrieverSuite(RetrieversIntegrationTests):
    """LangChain's own suite, unchanged."""

    @pytest.fixture(autouse=True)
    def _engine(self, remote):
        self.index = remote

    @property
    def retriever_constructor(self):
        return FastLaneRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self):
        return "cats purr"


def test_langchain_finds_on_a_server_what_it_finds_here(remote, index):
    options = {"k": 2, "filter": {"legs": {"$gte": 2}}, "score_key": "score"}
    there, here = FastLaneRetriever(index=remote, **options), FastLaneRetriever(index=index, **options)
    assert there.invoke("cats sing") == here.invoke("cats sing")
    assert asyncio.run(there.ainvoke("cats sing", k=1)) == here.invoke("cats sing", k=1)
    assert there.batch(["cats", "birds"]) == here.batch(["cats", "birds"])
    store, own = FastLaneVectorStore(remote), FastLaneVectorStore(index)
    assert store.similarity_search_with_score("cats") == own.similarity_search_with_score("cats")
    relevant = store.similarity_search_with_relevance_scores("cats purr")
    assert relevant == own.similarity_search_with_relevance_scores("cats purr")
    assert len(store.max_marginal_relevance_search("cats", k=2)) == 2
    store.add_documents([Document("cows moo", id="cow")])
    assert store.get_by_ids(["cow"])[0].page_content == "cows moo"


def test_llama_index_finds_on_a_server_what_it_finds_here(remote, index):
    filters = MetadataFilters(filters=[MetadataFilter(key="legs", value=4)])
    there = NodeRetriever(remote, similarity_top_k=2, filters=filters)
    here = NodeRetriever(index, similarity_top_k=2, filters=filters)
    assert [(one.node_id, one.score) for one in there.retrieve("dogs")] == [
        (one.node_id, one.score) for one in here.retrieve("dogs")
    ]
    several = QueryBundle("dogs", custom_embedding_strs=["dogs bark", "cats purr"])
    assert [one.node_id for one in asyncio.run(there.aretrieve(several))] == [
        one.node_id for one in here.retrieve(several)
    ]


def test_llama_index_stores_on_a_server(remote):
    nodes = [TextNode(id_="a", text="owls hunt by night", metadata={"legs": 2}), TextNode(id_="b", text="ants march")]
    context = StorageContext.from_defaults(vector_store=NodeStore(remote))
    engine = VectorStoreIndex(nodes, storage_context=context, embed_model=MockEmbedding(embed_dim=1))
    [found] = engine.as_retriever(similarity_top_k=1).retrieve("owls hunt")
    assert (found.node_id, found.text, found.metadata["legs"]) == ("a", "owls hunt by night", 2)
    engine.delete_nodes(["a"], delete_from_docstore=True)
    assert remote.get(["a"]) == []


def test_what_is_no_index_is_refused():
    for wrong, said in (("http://localhost:8000", r"RemoteIndex\('http"), (None, "create"), (object(), "create")):
        with pytest.raises(ValueError, match=f"FastLaneIndex or a RemoteIndex.*{said}"):
            FastLaneRetriever(index=wrong)
        with pytest.raises(InvalidInputError, match=f"FastLaneIndex or a RemoteIndex.*{said}"):
            NodeRetriever(wrong)


class Taken(BaseCallbackHandler):
    """What searches took, as callbacks find it."""

    def __init__(self):
        self.found = []

    def on_custom_event(self, name, data, **kwargs):
        self.found.append((name, data))


def test_langchains_callbacks_hear_of_searches_on_a_server(remote):
    handler = Taken()
    told = {"callbacks": [handler]}
    retriever, of_store = FastLaneRetriever(index=remote, k=1), FastLaneVectorStore(remote).as_retriever(k=1)
    retriever.invoke("cats", told)
    asyncio.run(retriever.ainvoke("cats", told))
    retriever.batch(["cats", "dogs"], told)
    of_store.invoke("cats", told)
    asyncio.run(of_store.ainvoke("cats", told))
    assert [name for name, _ in handler.found] == ["fastlane_search"] * 6
    assert all(data["hits"] == 1 and data["lane"] == "exhaustive" for _, data in handler.found)
    assert all(data["comparisons"] > 0 and data["milliseconds"]["encode"] > 0 for _, data in handler.found)


def test_llama_index_hears_of_searches_on_a_server(remote):
    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **kwargs):
            if isinstance(event, FastLaneSearchEvent):
                seen.append(event)

    dispatcher, handler = get_dispatcher(), Handler()
    dispatcher.add_event_handler(handler)
    try:
        retriever = NodeRetriever(remote, similarity_top_k=1)
        retriever.retrieve("cats")
        asyncio.run(retriever.aretrieve("cats"))
    finally:
        dispatcher.event_handlers.remove(handler)
    assert [(event.hits, event.lane) for event in seen] == [(1, "exhaustive")] * 2


def test_documents_are_read_without_a_query(remote, index):
    there, here = FastLaneVectorStore(remote, id_key="id"), FastLaneVectorStore(index, id_key="id")
    assert there.get(where={"legs": 4}, offset=1) == here.get(where={"legs": 4}, offset=1)
    assert there.get(ids=["fish", "cat"], limit=1) == here.get(ids=["fish", "cat"], limit=1)
    with pytest.raises(InvalidInputError, match="cannot be sent"):
        there.similarity_search("cats", filter=lambda document: True)
