"""Conversion between LlamaIndex's nodes and documents of the index."""

import json
from collections.abc import Iterable
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeWithScore,
    TextNode,
)

from fastlane_rag import Hit
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.passages import NODE_CONTENT, node_content
from fastlane_rag.index.protocol import AnyIndex
from fastlane_rag.lengths import check_list, kind
from fastlane_rag.storage.metadata import plain_metadata
from fastlane_rag.types import Document as StoredDocument

# Keys stored beside those of the node's own metadata, which stay at the top level for filters.
SOURCE_KEY = "_node_source"
ID_KEY = "_node_id"

_NODE_TYPES: dict[str, type[BaseNode]] = {
    node_type.class_name(): node_type for node_type in (TextNode, IndexNode, ImageNode, Node, Document, ImageDocument)
}


def add_nodes(
    index: AnyIndex,
    nodes: Iterable[BaseNode],
    *,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> list[str]:
    """Add or replace nodes by their ids. Encodes the text that LlamaIndex shows to embedding models."""
    nodes = given_nodes(nodes)
    return index.add(
        [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes],
        ids=[node.node_id for node in nodes],
        metadatas=[to_metadata(node) for node in nodes],
        batch_size=batch_size,
        show_progress=show_progress,
    )


def given_nodes(nodes: Iterable[BaseNode]) -> list[BaseNode]:
    """The nodes as a list; a node with a score counts as the node.

    Raises:
        InvalidInputError: there is a single one, or something else.
    """
    found = [one.node if isinstance(one, NodeWithScore) else one for one in check_list("nodes", nodes)]
    for i, one in enumerate(found):
        if not isinstance(one, BaseNode):
            raise InvalidInputError(f"nodes[{i}] must be a node of LlamaIndex, not {kind(one)}")
    return found


def to_metadata(node: BaseNode) -> dict[str, Any]:
    """The metadata to store for a node: its own, for filters, and the whole node, to restore it."""
    content = _content(node)
    metadata = dict(content["metadata"])
    source = node.ref_doc_id
    if source is not None:
        # LlamaIndex's own stores have the source under these names, for filters. A key of the user comes first.
        for name in ("ref_doc_id", "doc_id", "document_id"):
            metadata.setdefault(name, source)
        metadata[SOURCE_KEY] = source
    metadata[ID_KEY] = node.node_id
    metadata[NODE_CONTENT] = json.dumps(content, ensure_ascii=False)
    return metadata


def to_node(stored: Hit | StoredDocument) -> BaseNode:
    """A new node, because LlamaIndex's components change the nodes they get.

    A document that did not come from LlamaIndex becomes a TextNode. One that another of LlamaIndex's stores wrote, and
    that was copied into the index, becomes its node again.
    """
    content = node_content(stored)
    try:
        node = None if content is None else _node(content | {"id_": stored.id})
    except (TypeError, ValueError):  # a key of somebody else's
        node = None
    if node is None:
        return TextNode(id_=stored.id, text=stored.text, metadata=stored.metadata)
    empty = not node.get_content(metadata_mode=MetadataMode.NONE)
    if empty and stored.text != node.get_content(metadata_mode=MetadataMode.EMBED):
        node.set_content(stored.text)  # several of LlamaIndex's own stores keep the text beside the node
    return node


def to_scored_node(hit: Hit, *, normalize: bool, score_key: str | None) -> NodeWithScore:
    """A new node with the hit's relevance, or its score."""
    node = with_score(to_node(hit), hit.score, score_key)
    return NodeWithScore(node=node, score=hit.relevance if normalize else hit.score)


def with_score(node: BaseNode, score: float, score_key: str | None) -> BaseNode:
    """The node with the score in its metadata under this key, where models do not see it; None leaves it as it is."""
    if score_key is not None:
        node.metadata[score_key] = score
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, score_key]
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, score_key]
    return node


def _content(node: BaseNode) -> dict[str, Any]:
    content: dict[str, Any] = _plain(node).model_dump(mode="json")
    content["embedding"] = None
    # llama-index-core 0.13 writes the separator under two spellings, and reads the other one last.
    content.pop("metadata_seperator", None)
    if isinstance(node, IndexNode) and isinstance(node.obj, BaseNode):
        content["obj"] = _content(node.obj)
    return content


def _plain(node: BaseNode) -> BaseNode:
    """The node with metadata as the index stores them. Pydantic alone would turn NaN into None and bytes into text."""
    metadata = plain_metadata(node.metadata, f"the metadata of node {node.node_id!r}")
    relationships = {}
    for name, related in node.relationships.items():
        plain = [
            one.model_copy(update={"metadata": plain_metadata(one.metadata, f"the metadata of node {one.node_id!r}")})
            for one in (related if isinstance(related, list) else [related])
        ]
        relationships[name] = plain if isinstance(related, list) else plain[0]
    return node.model_copy(update={"metadata": metadata, "relationships": relationships})


def _node(content: dict[str, Any]) -> BaseNode:
    node_type = _NODE_TYPES.get(content.get("class_name", ""), TextNode)
    obj = content.get("obj")
    if not isinstance(obj, dict) or obj.get("class_name") not in _NODE_TYPES:
        return node_type.from_dict(content)
    node = node_type.from_dict({**content, "obj": None})
    return node.model_copy(update={"obj": _node(obj)})
