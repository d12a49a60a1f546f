"""Calls as the documents show them, for type checkers: test_typing.py runs mypy and pyright over this file."""

from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneTranslator, FastLaneVectorStore
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as NodeStore

from fastlane_rag import FastLaneIndex, FastLaneModel, Hit
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.result import SearchResult
from fastlane_rag.types import Document as StoredDocument


def recent(document: Document) -> bool:
    return bool(document.metadata["year"] > 2014)


def the_index(texts: list[str], ids: list[str], encoder: object) -> None:
    model = FastLaneModel.from_pretrained()
    FastLaneModel.from_pretrained("path", document_budget=1 / 3)
    with FastLaneIndex.create("docs.index", model=model, filter_keys=["year"], codec="residual2") as index:
        added: list[str] = index.add(texts, ids=ids, metadatas=[{"lang": "en", "year": 2024}])
        index.add(text for text in texts)
        hits: list[Hit] = index.search("query", k=5, filter={"year": {"$gte": 2020}})
        index.search("query", 5, route_k="auto", refine=False, lane="approximate", nprobe=4, depth=96)
        index.search("query", hybrid=True, fusion="rrf", score_threshold=0.7, policy=SearchPolicy(nprobe=8))
        index.search("query", hybrid=0.3, filter=lambda metadata: bool(metadata["draft"]))
        index.search("query", lane="words", filter={"$id": {"$in": added}})
        batch: list[list[Hit]] = index.search_batch(["q1", "q2"], 3, route_k=2)
        result: SearchResult = index.search_detailed("query", 10)
        taken: dict[str, Any] = result.summary()
        spans = hits[0].explain().spans
        print(hits[0].score, hits[0].relevance, hits[0].metadata, batch, taken, spans)
        found: list[StoredDocument] = index.find({"lang": "en"}, limit=10, offset=20)
        index.get(ids)
        index.delete(["old"])
        index.delete(filter={"$not": {"lang": "en"}})
        index.update_metadata(ids, [{"year": 2025}])
        index.save("backup.index", overwrite=True, codec="fp16")
        print(len(index), "id" in index, index.stats().bytes_per_document, found[0].text)
    with FastLaneIndex.build(Path("docs.index"), overwrite=True) as built:
        built.ingest(StoredDocument(str(n), text) for n, text in enumerate(texts))
    FastLaneIndex.open("docs.index", read_only=True, model=encoder)


async def in_langchain(index: FastLaneIndex, documents: list[Document]) -> None:
    retriever = FastLaneRetriever.from_texts(["text"], [{"n": 1}], ["id"], k=4, path="docs.index", overwrite=True)
    FastLaneRetriever.from_documents(documents, filter={"year": 2014}, hybrid=0.2, score_threshold=0.6)
    FastLaneRetriever(index=index, k=2, score_key="score", id_key="id", route_k="auto", filter=lambda metadata: True)
    FastLaneRetriever(index=index, filter=lambda document: document.page_content != "")
    FastLaneRetriever(index=index, filter=recent).invoke("query", filter=recent)
    found: list[Document] = retriever.invoke("query", k=2, filter={"lang": "en"})
    await retriever.ainvoke("query", hybrid=True)
    retriever.batch(["q1", "q2"], return_exceptions=True)
    store = FastLaneVectorStore(index)
    FastLaneVectorStore(model="path", id_key="id")
    FastLaneVectorStore.from_documents(documents, ids=["435", "465"])
    store.similarity_search("query", 4, {"year": {"$gte": 2014}})
    store.similarity_search("query", filter=lambda document: document.metadata["year"] == 2014, hybrid=True)
    store.similarity_search("query", 4, recent)
    scored: list[tuple[Document, float]] = store.similarity_search_with_score("query", k=2, score_threshold=0.5)
    store.similarity_search_with_relevance_scores("query", k=1)
    store.max_marginal_relevance_search("query", k=2, fetch_k=10, lambda_mult=0.3)
    as_retriever: BaseRetriever = store.as_retriever(k=4, filter={"lang": "en"})
    page: list[Document] = store.get(where={"lang": "en"}, limit=10, offset=10)
    store.update_documents(["435"], documents)
    store.delete(["584"])
    store.delete_collection()
    FastLaneReranker(model="path", top_n=4, score_threshold=0.6)
    FastLaneReranker(top_n=4).compress_documents(documents, "query")
    FastLaneReranker(model=FastLaneModel.from_pretrained())
    FastLaneTranslator(filter={"tenant": 3})
    print(found, scored, as_retriever, page)


async def in_llama_index(index: FastLaneIndex, nodes: list[TextNode], found: list[NodeWithScore]) -> None:
    retriever = NodeRetriever.from_nodes(nodes, similarity_top_k=4, path="peps.index", overwrite=True)
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=2014)])
    NodeRetriever(index, 4, filters=filters, hybrid=0.2, score_threshold=0.5, normalize_scores=False, score_key="raw")
    retriever.similarity_top_k = 1
    retriever.filters = filters
    scored: list[NodeWithScore] = retriever.retrieve("query")
    await retriever.aretrieve("query")
    store = NodeStore(index, normalize_scores=True)
    store.query(VectorStoreQuery(query_str="query", similarity_top_k=3), route_k=1, refine=False)
    store.get({"lang": "en"}, limit=10)
    store.get(filters)
    store.clear()
    FastLaneRerank("path", 4, score_threshold=0.5, keep_retrieval_score=True)
    FastLaneRerank(top_n=1).postprocess_nodes(found, query_str="query")
    print(scored)
