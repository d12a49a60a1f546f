"""Conversion between LangChain's documents and filters, and those of the index."""

from collections.abc import Callable, Iterable
from typing import Any

from langchain_core.documents import Document

from fastlane_rag import Hit
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.passages import as_passage
from fastlane_rag.index.protocol import AnyIndex
from fastlane_rag.lengths import check_list, kind
from fastlane_rag.storage.filters import AllOf, DocumentFilter, Filter, all_of
from fastlane_rag.types import Document as StoredDocument


def to_document(stored: Hit | StoredDocument, id_key: str | None = None) -> Document:
    """A new document, which a chain may change without changing the index; `id_key` gets its id in its metadata."""
    text, metadata = as_passage(stored)
    if id_key is not None:
        metadata[id_key] = stored.id
    return Document(id=stored.id, page_content=text, metadata=metadata)


class _Seen(dict[str, Any]):
    """What a filter function sees of a document: its metadata, with the attributes of a LangChain document.

    So it takes functions of the metadata, and functions of a document as InMemoryVectorStore has them.
    """

    def __init__(self, stored: StoredDocument) -> None:
        document = to_document(stored)
        super().__init__(document.metadata)
        self.id = document.id
        self.page_content = document.page_content

    @property
    def metadata(self) -> "_Seen":
        """Itself."""
        return self


def to_filter(given: Any) -> Filter | None:
    """The index's filter for one of LangChain: a dict, or a function of the metadata or of the document."""
    if isinstance(given, AllOf):
        return all_of(*map(to_filter, given.filters))
    if callable(given):
        function: Callable[[Any], bool] = given
        return DocumentFilter(lambda stored: function(_Seen(stored)))
    filter_: Filter | None = given
    return filter_


def given_documents(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list.

    Raises:
        InvalidInputError: there is a single one, or something else.
    """
    found = check_list("documents", documents)
    for i, one in enumerate(found):
        if not hasattr(one, "page_content"):
            raise InvalidInputError(f"documents[{i}] must be a Document of LangChain, not {kind(one)}")
    return found


def add_documents(
    index: AnyIndex,
    documents: Iterable[Document],
    ids: Iterable[str | None] | None = None,
    batch_size: int | None = None,
) -> list[str]:
    """Add or replace documents. `ids` take precedence over their own; ids of None are generated. Returns the ids."""
    documents = given_documents(documents)
    return index.add(
        [document.page_content for document in documents],
        ids=[document.id for document in documents] if ids is None else ids,
        metadatas=[document.metadata for document in documents],
        batch_size=batch_size,
    )
