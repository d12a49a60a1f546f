"""The ways to ask an index, here or on a server, that come down to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

if TYPE_CHECKING:
    from fastlane_rag.search.options import SearchKeywords
    from fastlane_rag.search.query import EncodedQuery
    from fastlane_rag.search.result import Hit, SearchResult
    from fastlane_rag.storage.filters import Filter

__all__ = ["Searches"]


class Searches(ABC):
    """An index that is searched by `search_batch_detailed`, and stands for its ids."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Size of a token embedding."""

    @abstractmethod
    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all documents, or of those that pass a filter."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the index."""

    @abstractmethod
    def search_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch`, with what each search took."""

    def search(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """Find the documents that answer a query best.

        Args:
            query: any text; what exceeds the model's query length is cut off, with a warning.
            k: how many to return; exactly min(k, matching documents) come back.
            **options: `filter`, `route_k`, `refine`, `weighted`, `lane`, `nprobe`, `depth`, `hybrid`, `fusion`,
                `score_threshold`, `policy`: see `fastlane_rag.search.options.SearchOptions`.

        Returns:
            Hits by descending score, ties broken by id. Fewer than k only where fewer documents match, share a word
            with the query (lane="words"), or are relevant enough (`score_threshold`).

        Raises:
            InvalidInputError: an option or the query is not what it must be.
            FilterError: the filter means nothing.
            IndexClosedError: the index is closed.
        """
        return self.search_batch([query], k, **options)[0]

    def search_embeddings(
        self, rows: Any, k: int = 10, *, text: str | None = None, **options: Unpack[SearchKeywords]
    ) -> list[Hit]:
        """Find the documents that answer a query best, by token embeddings that were made elsewhere.

        There is no router to choose among them, so all of them gather.

        Args:
            rows: one (Lq, dim) array or tensor, its rows L2-normalised.
            k: as in `search`.
            text: of the query; a hybrid search needs it.
            **options: as in `search`.

        Raises:
            InvalidInputError: the rows have another shape, are not finite or not normalised, or an option is not what
                it must be: `route_k` can only be "all".
        """
        queries, texts = self._plain(rows, text)
        return self.search_batch_detailed(queries, k, texts=texts, **options)[0].hits

    def search_batch(self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchKeywords]) -> list[list[Hit]]:
        """Search for several queries at one commit, sharing the work; arguments as `search`."""
        return [result.hits for result in self.search_batch_detailed(queries, k, **options)]

    def search_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """As `search`, with what it took: the routed tokens, the lane, comparisons, milliseconds of each stage."""
        return self.search_batch_detailed([query], k, **options)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __bool__(self) -> bool:
        # An empty index is still an index: `index or default` must not throw it away.
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plain(self, rows: Any, text: str | None) -> tuple[list[EncodedQuery], list[str] | None]:
        """A query of embeddings that were made elsewhere, and its text."""
        from fastlane_rag.index.outside import PlainQuery

        return [PlainQuery.of(rows, self.dim)], None if text is None else [text]
