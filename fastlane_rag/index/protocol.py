"""What the frameworks' adapters need of an index, wherever it is, and the check of what they are given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import kind

if TYPE_CHECKING:
    from fastlane_rag.search.options import SearchKeywords
    from fastlane_rag.search.query import DocumentEncoder
    from fastlane_rag.search.result import Hit, SearchResult
    from fastlane_rag.storage.filters import Filter
    from fastlane_rag.types import Document

__all__ = ["AnyIndex", "given_index", "matching"]


class AnyIndex(Protocol):
    """An index: `FastLaneIndex`, which documents each method, or `RemoteIndex`, the same on a server.

    Every method raises a FastLaneError for what it cannot do, and never passes over an argument that changes what is
    found. It may be called from any thread.

    An index with native coroutines has `asearch_batch_detailed` too, which adapters prefer when they are asked
    asynchronously.
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

    def search_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """The hits, and what finding them took."""
        ...

    def search_batch_detailed(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """The hits of each query, and what finding them took."""
        ...

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids, in this order, without those that are not stored."""
        ...

    def find(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """Some of the documents that pass a filter, in the order of their first addition."""
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

    def __contains__(self, id_: object) -> bool:
        """Whether a document has this id."""
        ...

    def __len__(self) -> int:
        """How many documents there are."""
        ...


def matching(index: AnyIndex, filter: Filter | None) -> int:
    """How many documents pass a filter; all where it is None."""
    return len(index) if filter is None else len(index.ids(filter))


_FACE = [name for name in vars(AnyIndex) if not name.startswith("_")]


def given_index(value: Any) -> AnyIndex:
    """The index that an adapter was given.

    Raises:
        InvalidInputError: it is none; the message says what to give instead.
    """
    if _is_index(value):
        return cast(AnyIndex, value)
    held = next((name for name in ("index", "client", "vector_store.client") if _is_index(_at(value, name))), None)
    if held is not None:
        advice = f"give the index that it holds, its .{held}"
    elif isinstance(value, str) and value.startswith(("http://", "https://")):
        advice = f"connect first: RemoteIndex({value!r})"
    elif isinstance(value, str | os.PathLike):
        advice = f"open the directory first: FastLaneIndex.open({os.fspath(value)!r})"
    elif hasattr(value, "embed_query") or hasattr(value, "get_query_embedding"):
        advice = "no embedding model is needed, because FastLane's own model makes the vectors"
    else:
        advice = "make one with FastLaneIndex.create() or FastLaneIndex.open(path)"
    raise InvalidInputError(f"index must be a FastLaneIndex or a RemoteIndex, not {kind(value)}: {advice}")


def _is_index(value: Any) -> bool:
    # Asked of its class: a look at the object would load its model.
    return all(hasattr(type(value), name) for name in _FACE)


def _at(value: Any, path: str) -> Any:
    """The attribute of an attribute that a path with dots leads to, or None."""
    return reduce(lambda found, name: getattr(found, name, None), path.split("."), value)
