"""FastLane for LangChain: late-interaction retrieval behind LangChain's own interfaces."""

from langchain_fastlane.query_constructors import FastLaneTranslator
from langchain_fastlane.rerankers import FastLaneReranker
from langchain_fastlane.retrievers import FastLaneRetriever
from langchain_fastlane.vectorstores import FastLaneVectorStore

__all__ = ["FastLaneReranker", "FastLaneRetriever", "FastLaneTranslator", "FastLaneVectorStore"]
