"""Conversion between LangChain's documents and those of the index."""

from collections.abc import Iterable, Sequence

from langchain_core.documents import Document

from fastlane_rag import Hit
from fastlane_rag.index.protocol import AnyIndex
from fastlane_rag.types import Document as StoredDocument


def to_document(stored: Hit | StoredDocument) -> Document:
    """A new document, which a chain may change without changing the index."""
    return Document(id=stored.id, page_content=stored.text, metadata=stored.metadata)


def add_documents(
    index: AnyIndex,
    documents: Iterable[Document],
    ids: Sequence[str | None] | None = None,
    batch_size: int | None = None,
) -> list[str]:
    """Add or replace documents. `ids` take precedence over their own; ids of None are generated. Returns the ids."""
    documents = list(documents)
    return index.add(
        [document.page_content for document in documents],
        ids=[document.id for document in documents] if ids is None else ids,
        metadatas=[document.metadata for document in documents],
        batch_size=batch_size,
    )
