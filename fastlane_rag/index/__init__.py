"""The index: documents, metadata and token embeddings, searchable and safe on disk."""

from fastlane_rag.index.facade import FastLaneIndex

__all__ = ["FastLaneIndex"]
