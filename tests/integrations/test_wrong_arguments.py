"""What is wrong in an argument is told where it is given, with the value: alike in both frameworks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneVectorStore
from llama_index.core import MockEmbedding, QueryBundle, VectorStoreIndex
from llama_index.core.schema import Document as Text
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneWarning, FilterError, InvalidInputError, UnknownOptionError
from fastlane_rag.rerank import rerank

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


def test_an_embedding_model_is_no_list_of_metadata(index):
    """Objects of pydantic iterate over their fields, so a text more was said to lack its metadata."""
    dense = DeterministicFakeEmbedding(size=4)
    for make in (
        lambda: FastLaneRetriever.from_texts(["cats"], dense),
        lambda: FastLaneVectorStore(index).add_texts(["cats"], dense),
    ):
        with pytest.raises(InvalidInputError, match="metadatas must be a list, not DeterministicFakeEmbedding"):
            make()


def test_an_index_is_looked_for_in_what_holds_one(index):
    store = NodeStore(index)
    in_framework = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=1))
    for holds, where in (
        (FastLaneVectorStore(index), "index"),
        (store, "client"),
        (in_framework, "vector_store.client"),
    ):
        with pytest.raises(InvalidInputError, match=rf"give the index that it holds, its \.{where}$"):
            NodeRetriever(holds)


def test_a_warning_is_at_the_line_that_called(index):
    for ask in (
        lambda: FastLaneVectorStore(index).similarity_search("cats", filter={"absent": 1}),
        lambda: NodeStore(index).query(VectorStoreQuery(query_str="")),
    ):
        with pytest.warns(FastLaneWarning) as told:
            ask()
        assert [one.filename for one in told] == [__file__]


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
    retriever = NodeRetriever(index)
    for misspelt, meant in (("similarity_topk", "similarity_top_k"), ("filter_", "filter"), ("k", "similarity_top_k")):
        with pytest.raises(UnknownOptionError, match=f"'{misspelt}' .*{meant}"):
            setattr(retriever, misspelt, 1)
    with pytest.raises(UnknownOptionError, match=r"'k' .* similarity_top_k"):
        NodeStore(index).query(VectorStoreQuery(query_str="cats"), k=1)


def test_filters_of_another_kind_are_refused_where_they_are_given(index):
    with pytest.raises(FilterError, match="filters must be MetadataFilters, not dict"):
        NodeRetriever(index, filters={"lang": "en"})
    with pytest.raises(FilterError, match="filters must be MetadataFilters, not dict"):
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


def asked(store, **fields):
    return store.query(VectorStoreQuery(query_str="cats", similarity_top_k=2, **fields))


@pytest.mark.parametrize("wrong", ["cat", 5, ["cat", 5], b"cat"], ids=str)
def test_ids_that_are_no_list_of_texts_are_refused_wherever_they_are_given(index, wrong):
    """The letters of one id were taken for ids, and a number found nothing."""
    store, nodes = FastLaneVectorStore(index), NodeStore(index)
    by_filter = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
    for call in (
        lambda: store.get(wrong),
        lambda: store.update_documents(wrong, [DOCUMENT]),
        lambda: nodes.get_nodes(wrong),
        lambda: nodes.get_nodes(wrong, by_filter),
        lambda: asked(nodes, node_ids=wrong),
        lambda: asked(nodes, doc_ids=wrong),
    ):
        with pytest.raises(InvalidInputError, match=r"ids(\[1\])? must be"):
            call()


@pytest.mark.parametrize("wrong", [None, 5, ["doc"]], ids=str)
def test_the_source_to_delete_is_a_text(index, wrong):
    with pytest.raises(InvalidInputError, match="ref_doc_id must be str"):
        NodeStore(index).delete(wrong)


def test_a_key_for_ids_or_scores_is_a_text(index):
    for make in (
        lambda: FastLaneVectorStore(index, id_key=5),
        lambda: NodeStore(index, score_key=5),
        lambda: NodeRetriever(index, score_key=5),
    ):
        with pytest.raises(InvalidInputError, match="_key must be str, not int 5"):
            make()


@pytest.mark.parametrize("wrong", ["0.9", -1, 2, float("nan"), True], ids=str)
async def test_a_wrong_threshold_of_relevance_is_named(index, wrong):
    store = FastLaneVectorStore(index)
    with pytest.raises(InvalidInputError, match="score_threshold must be"):
        store.similarity_search_with_relevance_scores("cats", score_threshold=wrong)
    with pytest.raises(InvalidInputError, match="score_threshold must be"):
        await store.asimilarity_search_with_relevance_scores("cats", score_threshold=wrong)


@pytest.mark.parametrize("threshold", [1, np.float32(0.9), np.float64(0.9)], ids=str)
def test_a_threshold_may_be_any_number(index, threshold):
    """LangChain's retriever takes a float of Python alone, and says of any other that there is none."""
    of_threshold = {"search_type": "similarity_score_threshold", "score_threshold": threshold}
    retriever = FastLaneVectorStore(index).as_retriever(**of_threshold)
    assert [document.id for document in retriever.invoke("cats purr")] == ["cat"]


async def test_a_batch_takes_lists_and_generators(index):
    retriever = FastLaneRetriever(index=index, k=1)
    with pytest.raises(InvalidInputError, match="inputs must be a list, not str 'cats'"):
        retriever.batch("cats")
    with pytest.raises(InvalidInputError, match="inputs must be a list, not str 'cats'"):
        await retriever.abatch("cats")
    found = retriever.batch(query for query in ("cats", "dogs"))
    assert found == await retriever.abatch(query for query in ("cats", "dogs"))
    assert [document.id for [document] in found] == ["cat", "dog"]


def test_what_a_query_mode_does_not_heed_is_refused(index):
    nodes = NodeStore(index)
    with pytest.raises(InvalidInputError, match=r"alpha=0\.3 counts with vector_store_query_mode='hybrid' alone"):
        asked(nodes, alpha=0.3)
    with pytest.raises(InvalidInputError, match=r"mmr_threshold=0\.3 counts with vector_store_query_mode='mmr' alone"):
        asked(nodes, mmr_threshold=0.3)
    with pytest.raises(InvalidInputError, match=r"mmr_threshold=0\.3 counts with"):
        nodes.query(VectorStoreQuery(query_str="cats", similarity_top_k=1), mmr_threshold=0.3)


@pytest.mark.parametrize(
    ("mode", "option", "advice"),
    [("hybrid", {"hybrid": 0.9}, "alpha weighs vectors"), ("text_search", {"lane": "exhaustive"}, "leave it out")],
)
def test_what_a_query_mode_sets_is_not_given_besides(index, mode, option, advice):
    """The mode's took its place in silence."""
    for given in (mode, VectorStoreQueryMode(mode)):
        query = VectorStoreQuery(query_str="cats", similarity_top_k=2, mode=given)
        with pytest.raises(InvalidInputError, match=f"vector_store_query_mode='{mode}' sets '{min(option)}'.*{advice}"):
            NodeStore(index).query(query, **option)


def test_numbers_of_any_size_are_counts(index):
    """A prefetch of more nodes than a float holds raised an OverflowError."""
    nodes, most = NodeStore(index), 10**400
    query = VectorStoreQuery(query_str="cats", similarity_top_k=most, mode=VectorStoreQueryMode.MMR)
    assert len(nodes.query(query, mmr_prefetch_factor=1e308).ids) == 3
    assert len(nodes.query(query, mmr_prefetch_factor=most).ids) == 3


def test_errors_of_adapters_are_of_the_package(index):
    nodes, reranker = NodeStore(index), FastLaneRerank(WordModel())
    found = [NodeWithScore(node=NODE)]
    for call in (
        lambda: nodes.query("cats"),
        lambda: nodes.query(VectorStoreQuery(query_embedding=[0.1])),
        lambda: asked(nodes, mode="fuzzy"),
        nodes.delete_nodes,
        lambda: nodes.persist("x.json", fs=MemoryFileSystem()),
        lambda: reranker.postprocess_nodes(found),
        lambda: reranker.postprocess_nodes(found, "cats"),
        lambda: reranker.postprocess_nodes([NODE], query_str="cats"),
        lambda: reranker.postprocess_nodes(found, query_str=5),
        lambda: FastLaneReranker(model=WordModel()).compress_documents([DOCUMENT], None),
    ):
        with pytest.raises(InvalidInputError):
            call()


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "two"], ids=str)
def test_a_rerankers_batch_size_is_checked_where_it_is_given(wrong):
    for make in (FastLaneRerank, FastLaneReranker):
        with pytest.raises(ValueError, match="batch_size must be a whole number from 1"):
            make(model=WordModel(), batch_size=wrong)
    with pytest.raises(InvalidInputError, match="batch_size must be a whole number from 1"):
        rerank("cats", ["cats"], model=WordModel(), batch_size=wrong)


def test_a_rerankers_top_n_is_checked_when_it_was_set_later():
    """-1 left out the last one."""
    reranker, compressor = FastLaneRerank(WordModel()), FastLaneReranker(model=WordModel())
    reranker.top_n = compressor.top_n = -1
    with pytest.raises(InvalidInputError, match="top_n must be a whole number, 0 or more"):
        reranker.postprocess_nodes([NodeWithScore(node=NODE)] * 2, query_str="cats")
    with pytest.raises(InvalidInputError, match="top_n must be a whole number, 0 or more"):
        compressor.compress_documents([DOCUMENT] * 2, "cats")


@pytest.mark.parametrize("wrong", ["n=1", ["n"], 5], ids=str)
def test_what_is_no_filter_is_refused_where_it_is_given(index, wrong):
    for make in (
        lambda: FastLaneRetriever(index=index, filter=wrong),
        lambda: FastLaneVectorStore(index).as_retriever(filter=wrong),
        lambda: FastLaneVectorStore(index).as_retriever(search_kwargs={"filter": wrong}),
        lambda: NodeRetriever(index, filter=wrong),
    ):
        with pytest.raises(ValueError, match="a filter is a dict like"):
            make()
