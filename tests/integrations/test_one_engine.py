"""The same documents and query give the same ids and scores through each of the six adapters."""

import pytest
from langchain_core.documents import Document
from langchain_fastlane import FastLaneReranker
from langchain_fastlane import FastLaneRetriever as LangChainRetriever
from langchain_fastlane import FastLaneVectorStore as LangChainStore
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as LlamaIndexRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as LlamaIndexStore

from fastlane_rag.rerank import relevance

QUERIES = ["how do I add an enumeration type?", "operator for matrix multiplication", ""]
K = 5


@pytest.fixture(scope="module")
def documents(corpus) -> list[Document]:
    return [Document(id=passage.id, page_content=passage.text) for passage in corpus]


@pytest.fixture(scope="module")
def nodes(corpus) -> list[TextNode]:
    return [TextNode(id_=passage.id, text=passage.text) for passage in corpus]


@pytest.fixture(scope="module")
def reference(index):
    """The engine itself, over the same passages; ids and scores by query."""
    return {query: [(hit.id, hit.score) for hit in index.search(query, K)] for query in QUERIES}


@pytest.mark.parametrize("query", QUERIES)
def test_retrievers_and_stores_give_the_engines_ids_and_scores(model, documents, nodes, reference, query):
    langchain = LangChainRetriever.from_documents(documents, model=model, k=K, score_key="score")
    assert [(found.id, found.metadata["score"]) for found in langchain.invoke(query)] == reference[query]

    store = LangChainStore.from_documents(documents, model)
    assert [(found.id, score) for found, score in store.similarity_search_with_score(query, K)] == reference[query]

    llama_index = LlamaIndexRetriever.from_nodes(nodes, model=model, similarity_top_k=K, normalize_scores=False)
    assert [(found.node_id, found.score) for found in llama_index.retrieve(query)] == reference[query]

    other = LlamaIndexStore(model=model, normalize_scores=False)
    other.add(nodes)
    result = other.query(VectorStoreQuery(query_str=query, similarity_top_k=K))
    assert list(zip(result.ids, result.similarities, strict=True)) == reference[query]


@pytest.mark.parametrize("query", QUERIES[:2])
def test_rerankers_agree_exactly_and_the_index_up_to_its_codec(model, documents, nodes, reference, query):
    tokens = len(model.encode_queries([query])[0])
    compressed = FastLaneReranker(model=model, top_n=K).compress_documents(documents, query)
    given = [NodeWithScore(node=node) for node in nodes]
    reranked = FastLaneRerank(model, top_n=K, normalize_scores=False).postprocess_nodes(given, query_str=query)
    relevant = FastLaneRerank(model, top_n=K).postprocess_nodes(given, query_str=query)
    assert [found.id for found in compressed] == [found.node_id for found in reranked]
    assert [found.metadata["relevance_score"] for found in compressed] == [
        relevance(found.score, tokens) for found in reranked
    ]
    assert [found.score for found in relevant] == [found.metadata["relevance_score"] for found in compressed]
    assert [found.node_id for found in reranked] == [id_ for id_, _ in reference[query]]
    assert [found.score for found in reranked] == pytest.approx([score for _, score in reference[query]], abs=0.05)


def test_one_index_serves_both_frameworks(model, documents, index):
    langchain = LangChainRetriever(index=index, k=K).invoke(QUERIES[0])
    llama_index = LlamaIndexRetriever(index, similarity_top_k=K).retrieve(QUERIES[0])
    assert [(found.id, found.page_content, found.metadata) for found in langchain] == [
        (found.node_id, found.text, found.metadata) for found in llama_index
    ]
