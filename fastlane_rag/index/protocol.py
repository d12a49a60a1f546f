"""What the frameworks' adapters need of an index, wherever it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from fastlane_rag.errors import InvalidInputError

if TYPE_CHECKING:
    from fastlane_rag.search.options import SearchKeywords
    from fastlane_rag.search.query import DocumentEncoder
    from fastlane_rag.search.result import Hit, SearchResult
    from fastlane_rag.storage.filters import Filter
    from fastlane_rag.types import Document

__all__ = ["AnyIndex", "check_index"]

_ASKED = ("add", "search_batch", "search_detailed", "get", "delete")


class AnyIndex(Protocol):
    """An index: `FastLaneIndex`, which documents each method, or `RemoteIndex`, the same on a server.

    Every method raises a FastLaneError for what it cannot do, and never passes over an argument that changes what is
    found. It may be called from any thread.

    An index with native coroutines has `asearch_batch`, `asearch_detailed`, ... too, which adapters prefer when they
    are asked asynchronously.
    """

    @property
    def model(self) -> DocumentEncoder:
        """What encodes its documents and queries."""
        ...

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """Add or replace documents, all or none; returns their ids in input order."""
        ...

    def search(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """The min(k, matching documents) best hits, best first."""
        ...

    def search_batch(self, queries: Sequence[str], k: int = 10, **options: Unpack[SearchKeywords]) -> list[list[Hit]]:
        """The hits of each query."""
        ...

    def search_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """The hits, and what finding them took."""
        ...

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids, in this order, without those that are not stored."""
        ...

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all documents, or of those that pass a filter."""
        ...

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by id, by filter, or by both; returns how many."""
        ...

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Copy the index to a directory, or say why that cannot be."""
        ...


def check_index(value: Any) -> Any:
    """An index as it was given.

    Raises:
        InvalidInputError: it is none.
    """
    # Asked of its class: a look at the object would load its model.
    missing = [name for name in _ASKED if not hasattr(type(value), name)]
    if missing:
        raise InvalidInputError(
            f"index must be a FastLaneIndex or a RemoteIndex, not {value!r}, which has no {missing[0]}()"
        )
    return value
