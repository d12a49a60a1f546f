"""FastLane for LlamaIndex: late-interaction retrieval behind LlamaIndex's own interfaces."""

from llama_index.retrievers.fastlane.events import FastLaneSearchEvent
from llama_index.retrievers.fastlane.rerank import FastLaneRerank
from llama_index.retrievers.fastlane.retriever import FastLaneRetriever
from llama_index.retrievers.fastlane.vector_store import FastLaneVectorStore

__all__ = ["FastLaneRerank", "FastLaneRetriever", "FastLaneSearchEvent", "FastLaneVectorStore"]
