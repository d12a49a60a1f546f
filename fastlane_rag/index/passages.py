"""How every front end shows documents that LlamaIndex's adapter stored."""

from __future__ import annotations

import json
from typing import Any

from fastlane_rag.search.result import Hit
from fastlane_rag.types import Document

__all__ = ["NODE_CONTENT", "as_passage", "node_content"]

NODE_CONTENT = "_node_content"
"""The metadata key under which LlamaIndex's adapter keeps a whole node as JSON."""


def as_passage(stored: Hit | Document) -> tuple[str, dict[str, Any]]:
    """The text and metadata that a user gave.

    What LlamaIndex's adapter stores has the metadata in its text, for the model, and the whole node in its metadata.
    Both are left out here.
    """
    node = node_content(stored)
    if node is None:
        return stored.text, stored.metadata
    resource = node.get("text_resource")
    text = node.get("text") or (resource.get("text") if isinstance(resource, dict) else None)
    return text if isinstance(text, str) else stored.text, node["metadata"]


def node_content(stored: Hit | Document) -> dict[str, Any] | None:
    """What LlamaIndex stored of a node; None where its key is absent, or holds what is no node."""
    content = stored.metadata.get(NODE_CONTENT)
    try:
        node = json.loads(content) if isinstance(content, str) else None
    except ValueError:
        return None
    return node if isinstance(node, dict) and isinstance(node.get("metadata"), dict) else None
