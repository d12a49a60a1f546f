"""The index: documents, metadata and token embeddings, searchable and safe on disk."""

from fastlane_rag.index.fastlane import FastLaneIndex

__all__ = ["FastLaneIndex"]
