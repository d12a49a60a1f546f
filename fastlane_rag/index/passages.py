"""What every front end takes and shows alike: the index it is given, and documents that LlamaIndex's adapter stored."""

from __future__ import annotations

import json
import os
from typing import Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.facade import FastLaneIndex
from fastlane_rag.search.result import Hit
from fastlane_rag.storage.metadata import kind
from fastlane_rag.types import Document

__all__ = ["NODE_CONTENT", "as_passage", "given_index"]

NODE_CONTENT = "_node_content"
"""The metadata key under which LlamaIndex's adapter keeps a whole node as JSON."""


def given_index(value: Any) -> FastLaneIndex:
    """The index that an adapter was given.

    Raises:
        InvalidInputError: it is none; the message says what to give instead.
    """
    if isinstance(value, FastLaneIndex):
        return value
    if isinstance(value, str | os.PathLike):
        advice = f"open the directory first: FastLaneIndex.open({os.fspath(value)!r})"
    elif hasattr(value, "embed_query") or hasattr(value, "get_query_embedding"):
        advice = "no embedding model is needed, because FastLane's own model makes the vectors"
    else:
        advice = "make one with FastLaneIndex.create() or FastLaneIndex.open(path)"
    raise InvalidInputError(f"index must be a FastLaneIndex, not {kind(value)}: {advice}")


def as_passage(stored: Hit | Document) -> tuple[str, dict[str, Any]]:
    """The text and metadata that a user gave.

    What LlamaIndex's adapter stores has the metadata in its text, for the model, and the whole node in its metadata.
    Both are left out here.
    """
    content = stored.metadata.get(NODE_CONTENT)
    try:
        node = json.loads(content) if isinstance(content, str) else None
    except ValueError:
        node = None
    if not isinstance(node, dict) or not isinstance(node.get("metadata"), dict):
        return stored.text, stored.metadata
    resource = node.get("text_resource")
    text = node.get("text") or (resource.get("text") if isinstance(resource, dict) else None)
    return text if isinstance(text, str) else stored.text, node["metadata"]
