"""hybrid=True reaches the engine through every adapter that searches, as a field and for one call."""

import pytest
from langchain_fastlane import FastLaneRetriever as LangChainRetriever
from langchain_fastlane import FastLaneVectorStore as LangChainStore
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.retrievers.fastlane import FastLaneRetriever as LlamaIndexRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as LlamaIndexStore

QUERY = "__matmul__ PEP 465"
K = 5


@pytest.fixture(scope="module")
def expected(index):
    hits = [(hit.id, hit.score) for hit in index.search(QUERY, K, hybrid=True)]
    assert hits != [(hit.id, hit.score) for hit in index.search(QUERY, K)]
    return hits


async def test_the_langchain_retriever(index, expected):
    field = LangChainRetriever(index=index, k=K, score_key="score", hybrid=True)
    plain = LangChainRetriever(index=index, k=K, score_key="score")
    for found in (
        field.invoke(QUERY),
        await field.ainvoke(QUERY),
        field.batch([QUERY])[0],
        plain.invoke(QUERY, hybrid=True),
        await plain.ainvoke(QUERY, hybrid=True),
        plain.batch([QUERY], hybrid=True)[0],
    ):
        assert [(one.id, one.metadata["score"]) for one in found] == expected
    assert field.invoke(QUERY, hybrid=False) == plain.invoke(QUERY)


def test_the_langchain_store(index, expected):
    store = LangChainStore(index)
    assert [(one.id, score) for one, score in store.similarity_search_with_score(QUERY, K, hybrid=True)] == expected
    ids = [id_ for id_, _ in expected]
    assert [one.id for one in store.similarity_search(QUERY, K, hybrid=True)] == ids
    relevant = store.similarity_search_with_relevance_scores(QUERY, K, hybrid=True)
    assert [one.id for one, _ in relevant] == ids
    assert all(0 <= relevance <= 1 for _, relevance in relevant)
    by_relevance = store.max_marginal_relevance_search(QUERY, K, fetch_k=K, lambda_mult=1.0, hybrid=True)
    assert {one.id for one in by_relevance} == set(ids)


async def test_the_llama_index_retriever_and_store(index, expected):
    retriever = LlamaIndexRetriever(index, similarity_top_k=K, hybrid=True, normalize_scores=False)
    for found in (retriever.retrieve(QUERY), await retriever.aretrieve(QUERY)):
        assert [(one.node_id, one.score) for one in found] == expected
    store = LlamaIndexStore(index, normalize_scores=False)
    result = store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=K), hybrid=True)
    assert list(zip(result.ids, result.similarities, strict=True)) == expected
