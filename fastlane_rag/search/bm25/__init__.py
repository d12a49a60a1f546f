"""BM25 over the words that every segment holds."""

from fastlane_rag.search.bm25.lane import LexicalLane
from fastlane_rag.search.bm25.statistics import WordStatistics

__all__ = ["LexicalLane", "WordStatistics"]
