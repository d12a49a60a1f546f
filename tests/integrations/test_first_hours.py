"""What a newcomer does first, alike in both frameworks: a path used twice, one model, an encoder of one's own."""

import hashlib

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneVectorStore
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError, ModelMismatchError
from fastlane_rag.model.shared import shared_model

TEXTS = {"cat": "Cats purr when they are content.", "dog": "Dogs bark at strangers."}
QUERY = "which animal purrs?"


class LangChainStore:
    """Each of these four opens, fills and asks in its framework's way."""

    made = FastLaneVectorStore

    @staticmethod
    def fill(store):
        store.add_texts(list(TEXTS.values()), ids=list(TEXTS))

    @staticmethod
    def ask(store):
        return [document.id for document in store.similarity_search(QUERY, k=1)]

    @staticmethod
    def index(store):
        return store.index


class LangChainRetriever(LangChainStore):
    made = staticmethod(lambda path, **options: FastLaneRetriever.from_existing(path, k=1, **options))

    @staticmethod
    def fill(retriever):
        retriever.add_documents([Document(id=id_, page_content=text) for id_, text in TEXTS.items()])

    @staticmethod
    def ask(retriever):
        return [document.id for document in retriever.invoke(QUERY)]


class LlamaIndexStore(LangChainStore):
    made = NodeStore

    @staticmethod
    def fill(store):
        store.add([TextNode(id_=id_, text=text) for id_, text in TEXTS.items()])

    @staticmethod
    def ask(store):
        return store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=1)).ids

    @staticmethod
    def index(store):
        return store.client


class LlamaIndexRetriever(LangChainStore):
    made = staticmethod(lambda path, **options: NodeRetriever.from_existing(path, similarity_top_k=1, **options))

    @staticmethod
    def fill(retriever):
        retriever.add_nodes([TextNode(id_=id_, text=text) for id_, text in TEXTS.items()])

    @staticmethod
    def ask(retriever):
        return [scored.node.node_id for scored in retriever.retrieve(QUERY)]


@pytest.fixture(params=[LangChainStore, LangChainRetriever, LlamaIndexStore, LlamaIndexRetriever])
def adapter(request):
    return request.param


def test_a_cell_run_twice_goes_on_with_the_index_at_its_path(adapter, tmp_path):
    for _ in range(2):
        made = adapter.made(path=tmp_path / "docs.index")
        adapter.fill(made)
        assert adapter.ask(made) == ["cat"]
        assert len(adapter.index(made)) == 2
    with FastLaneIndex.open(tmp_path / "docs.index") as index:
        assert sorted(index.ids()) == ["cat", "dog"]


def test_what_it_was_made_with_is_compared(adapter, tmp_path):
    adapter.made(path=tmp_path / "docs.index", codec="fp16")
    with pytest.raises(InvalidInputError, match="codec='fp16', not 'residual2'"):
        adapter.made(path=tmp_path / "docs.index", codec="residual2")
    with pytest.raises(ModelMismatchError, match="fastlane-default"):
        adapter.made(path=tmp_path / "docs.index", model=Encodes())
    with pytest.raises((InvalidInputError, ValueError, TypeError), match="devcie"):
        adapter.made(path=tmp_path / "docs.index", devcie="cpu")


def test_one_model_serves_them_all(adapter, tmp_path):
    made = adapter.made(path=tmp_path / "docs.index", device="cpu")
    shared = adapter.index(made).model
    assert shared is shared_model()
    assert FastLaneReranker().model is shared
    assert FastLaneReranker(device="cpu").model is shared
    assert FastLaneRerank(device="cpu")._model is shared


def test_an_index_brings_its_own_options(index):
    for store in (FastLaneVectorStore, NodeStore):
        for options in ({"path": "elsewhere"}, {"device": "cpu"}, {"model": "default"}):
            with pytest.raises(InvalidInputError, match="an index brings its own"):
                store(index, **options)


def test_building_takes_the_options_of_an_index():
    texts = list(TEXTS.values())
    built = [
        FastLaneRetriever.from_texts(texts, codec="fp16", device="cpu", k=1).index,
        FastLaneRetriever.from_documents([Document(page_content=t) for t in texts], codec="fp16", k=1).index,
        FastLaneVectorStore.from_texts(texts, codec="fp16", device="cpu").index,
        FastLaneVectorStore.from_documents([Document(page_content=t) for t in texts], codec="fp16").index,
        NodeRetriever.from_nodes([TextNode(text=t) for t in texts], codec="fp16", similarity_top_k=1).index,
    ]
    assert [index.stats().codec for index in built] == ["fp16"] * 5


def row(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.strip("?.").lower()[:4].encode()).digest()[:4], "little")
    vector = np.random.default_rng(seed).standard_normal(8)
    return vector / np.linalg.norm(vector)


class Encodes:
    """An object that encodes, for any late-interaction model: here a token is the start of a word."""

    name, dim = "starts of words", 8

    def encode_documents(self, texts):
        return [np.stack([row(word) for word in text.split()]) for text in texts]

    encode_queries = encode_documents


def test_an_object_that_encodes_takes_the_models_place(adapter, tmp_path):
    for _ in range(2):
        made = adapter.made(path=tmp_path / "own.index", model=Encodes())
        adapter.fill(made)
        assert adapter.ask(made) == ["cat"]
    assert adapter.index(made).dim == 8


def test_an_object_that_encodes_reranks():
    documents = [Document(id=id_, page_content=text) for id_, text in reversed(TEXTS.items())]
    [best] = FastLaneReranker(model=Encodes(), top_n=1).compress_documents(documents, QUERY)
    assert best.id == "cat"
    nodes = [NodeWithScore(node=TextNode(id_=id_, text=text), score=0.0) for id_, text in reversed(TEXTS.items())]
    [scored] = FastLaneRerank(model=Encodes(), top_n=1).postprocess_nodes(nodes, query_str=QUERY)
    assert scored.node.node_id == "cat"


def test_rows_that_came_ready_are_found_through_a_store(tmp_path):
    with FastLaneIndex.create(tmp_path / "own.index", dim=8, model="starts of words") as index:
        index.add_embeddings(Encodes().encode_documents(TEXTS.values()), list(TEXTS), list(TEXTS.values()))
    store = FastLaneVectorStore(path=tmp_path / "own.index", model=Encodes())
    assert store.similarity_search(QUERY, k=1)[0].id == "cat"
    store = FastLaneVectorStore(path=tmp_path / "own.index")
    with pytest.raises(InvalidInputError, match="search_embeddings"):
        store.similarity_search(QUERY)
