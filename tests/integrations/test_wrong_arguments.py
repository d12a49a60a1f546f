"""What is wrong in an argument is told where it is given, with the value: alike in both frameworks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneVectorStore
from llama_index.core import QueryBundle
from llama_index.core.schema import Document as Text
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError, UnknownOptionError

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from word_model import WordModel

DOCUMENT, NODE = Document(page_content="cats purr", id="cat"), TextNode(text="cats purr", id_="cat")


@pytest.fixture
def index():
    with FastLaneIndex.create(model=WordModel()) as made:
        made.add(["cats purr", "dogs bark", "birds sing"], ["cat", "dog", "bird"])
        yield made


@pytest.mark.parametrize("wrong", ["a text", None, 5, DOCUMENT, ["a text"], [None], [NODE]], ids=str)
def test_what_is_no_document_is_refused(index, wrong):
    store = FastLaneVectorStore(index)
    for take in (
        store.add_documents,
        FastLaneRetriever(index=index).add_documents,
        lambda documents: FastLaneVectorStore.from_documents(documents, WordModel()),
        lambda documents: FastLaneRetriever.from_documents(documents, model=WordModel()),
        lambda documents: FastLaneReranker(model=WordModel()).compress_documents(documents, "cats"),
    ):
        with pytest.raises(InvalidInputError, match=r"documents must be a list|documents\[0\] must be a Document"):
            take(wrong)
    assert len(index) == 3


@pytest.mark.parametrize("wrong", ["a text", None, 5, NODE, ["a text"], [None], [DOCUMENT]], ids=str)
def test_what_is_no_node_is_refused(index, wrong):
    for take in (
        NodeStore(index).add,
        NodeRetriever(index).add_nodes,
        lambda nodes: NodeRetriever.from_nodes(nodes, model=WordModel()),
        lambda nodes: NodeRetriever.from_documents(nodes, model=WordModel()),
    ):
        with pytest.raises(InvalidInputError, match=r"nodes must be a list|nodes\[0\] must be a node"):
            take(wrong)
    assert len(index) == 3


def test_nodes_that_were_found_may_be_added(index):
    assert NodeStore(index).add([NodeWithScore(node=NODE, score=1.0)]) == ["cat"]
    assert len(NodeRetriever.from_documents((Text(text="x") for _ in range(2)), model=WordModel()).index) == 2


@pytest.mark.parametrize("k", [-1, True, 2.0, "2", None])
def test_a_wrong_k_is_refused_by_all_of_them(index, k):
    store = FastLaneVectorStore(index)
    retriever = NodeRetriever(index)
    retriever.similarity_top_k = k
    several = QueryBundle("cats", custom_embedding_strs=["cats", "dogs"])
    for call in (
        lambda: FastLaneRetriever(index=index, k=k),
        lambda: store.similarity_search("cats", k=k),
        lambda: store.as_retriever(k=k),
        lambda: store.max_marginal_relevance_search("cats", k=k),
        lambda: FastLaneReranker(model=WordModel(), top_n=k),
        lambda: NodeRetriever(index, k),
        lambda: retriever.retrieve("cats"),
        lambda: retriever.retrieve(several),
        lambda: FastLaneRerank(WordModel(), top_n=k),
        *(
            lambda mode=mode: NodeStore(index).query(VectorStoreQuery(query_str="cats", similarity_top_k=k, mode=mode))
            for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
        ),
    ):
        with pytest.raises(ValueError, match="must be a whole number, 0 or more"):
            call()


def test_numbers_of_numpy_are_counts(index):
    k = np.int64(2)
    assert len(FastLaneRetriever(index=index, k=k).invoke("cats")) == 2
    assert len(FastLaneVectorStore(index).max_marginal_relevance_search("cats", k=k)) == 2
    assert FastLaneReranker(model=WordModel(), top_n=k).top_n == FastLaneRerank(WordModel(), top_n=k).top_n == 2
    assert len(NodeRetriever(index, k).retrieve("cats")) == 2


@pytest.mark.parametrize("wrong", ["x", -1, 2, float("nan")])
def test_a_wrong_weight_of_variety_is_refused(index, wrong):
    query = VectorStoreQuery(query_str="cats", similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
    for call, name in (
        (lambda: FastLaneVectorStore(index).max_marginal_relevance_search("cats", lambda_mult=wrong), "lambda_mult"),
        (lambda: NodeStore(index).query(query, mmr_threshold=wrong), "mmr_threshold"),
    ):
        with pytest.raises(InvalidInputError, match=f"{name} must be a number from 0 to 1"):
            call()
    for call, name in (
        (lambda: FastLaneVectorStore(index).max_marginal_relevance_search("cats", fetch_k="x"), "fetch_k"),
        (lambda: NodeStore(index).query(query, mmr_prefetch_factor="x"), "mmr_prefetch_factor"),
        (lambda: NodeStore(index).query(query, mmr_prefetch_factor=float("inf")), "mmr_prefetch_factor"),
    ):
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            call()


def test_no_keyword_is_swallowed(index):
    with pytest.raises(UnknownOptionError, match=r"'k' .* it takes similarity_top_k"):
        NodeRetriever(index, k=1)
    with pytest.raises(UnknownOptionError, match="did you mean 'similarity_top_k'"):
        NodeRetriever(index, simlarity_top_k=1)
    with pytest.raises(UnknownOptionError, match=r"'k' .* similarity_top_k"):
        NodeStore(index).query(VectorStoreQuery(query_str="cats"), k=1)


def test_filters_of_another_kind_are_refused_where_they_are_given(index):
    with pytest.raises(TypeError, match="filters must be MetadataFilters, not dict"):
        NodeRetriever(index, filters={"lang": "en"})
    with pytest.raises(TypeError, match="filters must be MetadataFilters, not dict"):
        NodeStore(index).delete_nodes(filters={"lang": "en"})
    with pytest.raises(ValueError, match="not fuzzy"):
        NodeStore(index).query(VectorStoreQuery(query_str="cats", mode="fuzzy"))
    for path in ("", None, "/"):
        with pytest.raises(InvalidInputError):
            NodeStore(index).persist(path)


def test_reranking_takes_a_list_of_nodes():
    with pytest.raises(InvalidInputError, match="nodes must be a list"):
        FastLaneRerank(WordModel()).postprocess_nodes(None, query_str="cats")


def test_a_model_that_gives_arrays_reranks_and_varies(index):
    documents = [Document(page_content=text) for text in ("dogs bark", "cats purr")]
    [best] = FastLaneReranker(model=WordModel(), top_n=1).compress_documents(documents, "cats purr")
    assert best.page_content == "cats purr"
    assert FastLaneVectorStore(index).max_marginal_relevance_search("cats purr", k=2)[0].id == "cat"
