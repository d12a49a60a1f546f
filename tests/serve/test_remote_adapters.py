"""The frameworks' adapters take an index on a server unchanged, and pass the frameworks' own suites with it."""

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_fastlane import FastLaneRetriever, FastLaneVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
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
    for wrong in ("http://localhost:8000", None, object()):
        with pytest.raises(ValueError, match="FastLaneIndex or a RemoteIndex"):
            FastLaneRetriever(index=wrong)
        with pytest.raises(InvalidInputError, match="FastLaneIndex or a RemoteIndex"):
            NodeRetriever(wrong)
