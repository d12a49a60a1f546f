"""Between LangChain's documents and the index: the one place that converts them."""

from collections.abc import Iterable, Sequence

from langchain_core.documents import Document

from fastlane_rag import Hit
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.types import Document as StoredDocument


def to_document(stored: Hit | StoredDocument) -> Document:
    """A fresh document, so that a chain may change it without touching the index."""
    return Document(id=stored.id, page_content=stored.text, metadata=stored.metadata)


def add_documents(
    index: FastLaneIndex,
    documents: Iterable[Document],
    ids: Sequence[str | None] | None = None,
    batch_size: int | None = None,
) -> list[str]:
    """Add or replace; `ids` beat the documents' own, and what is None is generated. Returns them in input order."""
    documents = list(documents)
    return index.add(
        [document.page_content for document in documents],
        ids=[document.id for document in documents] if ids is None else ids,
        metadatas=[document.metadata for document in documents],
        batch_size=batch_size,
    )
