"""An index whose candidates come from another database."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.checks import check_queries, query_texts
from fastlane_rag.index.encoding import encoded_queries
from fastlane_rag.index.evidence import give_evidence
from fastlane_rag.index.facade import FastLaneIndex
from fastlane_rag.index.images import AddsImages
from fastlane_rag.index.searches import Searches
from fastlane_rag.lengths import kind
from fastlane_rag.search.options import SearchKeywords, SearchOptions

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from fastlane_rag.candidates.source import CandidateSource
    from fastlane_rag.explain import Explanation
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.query import EncodedQuery
    from fastlane_rag.search.result import Hit, SearchResult
    from fastlane_rag.storage.filters import Filter
    from fastlane_rag.types import Document, IndexStats, Ingested, RouteK

__all__ = ["CandidateIndex"]

T = TypeVar("T")

_METHODS = ("upsert", "delete", "versions", "candidates")

_MOST_IDS = 10_000
"""A filter that passes no more documents is sent to the database as their ids; others are applied to what it finds."""

_MOST_WITHOUT = 4096
"""More documents without a vector in the database than this, and the index gathers by itself."""

_BATCH = 1000
"""Documents in one upsert."""

_WIDER = 4
"""Where a filter leaves too few of the candidates, so many times as many are asked for."""


class CandidateIndex(Searches, AddsImages):
    """A `FastLaneIndex` whose vector lane lives in another database.

    The database keeps one vector a document and answers which are nearest to a query's; texts, metadata, codes and the
    exact refinement stay in the index, which decides what there is. So the database can lag or fail without a wrong
    answer: documents whose vector it lacks are candidates of every search, and those it has too many are not found.
    Searches that name another lane, or are hybrid or unrefined, are answered by the index alone.

    Writes go to the index first and are durable there, then to the database. A crash in between leaves the database
    behind; opening calls `sync`, which brings it up to date, and `verify` says what differs. One process writes.

    Args:
        index: an open index; close it by this object or by itself.
        source: the database.

    Raises:
        CandidateSourceError: the database failed.
        InvalidInputError: `index` is no FastLaneIndex, or `source` lacks a method of `CandidateSource`.

    Example:
        ```python
        from fastlane_rag import FastLaneIndex
        from fastlane_rag.candidates import CandidateIndex
        from fastlane_rag.candidates.pgvector import PgVector

        index = CandidateIndex(FastLaneIndex.open("docs.index"), PgVector("postgresql://localhost/app", "passages"))
        hits = index.search("what does a cat do?", k=5)
        ```
    """

    def __init__(self, index: FastLaneIndex, source: CandidateSource) -> None:
        if not isinstance(index, FastLaneIndex):
            raise InvalidInputError(f"index must be an open FastLaneIndex, not {kind(index)}")
        if lacks := [name for name in _METHODS if not callable(getattr(source, name, None))]:
            raise InvalidInputError(
                f"source must be a database such as PgVector or Qdrant; {kind(source)} has no {', '.join(lacks)}"
            )
        self._index, self._source = index, source
        self._lock = threading.RLock()
        self._known: dict[str, str] = {}
        self._commit = -1
        self._map = ""
        self._without: frozenset[str] = frozenset()
        self.sync(check=True)

    @property
    def index(self) -> FastLaneIndex:
        """The index with everything but the candidates."""
        return self._index

    @property
    def model(self) -> FastLaneModel:
        """As `FastLaneIndex.model`."""
        return self._index.model

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self._index.dim

    @property
    def read_only(self) -> bool:
        """Whether the index refuses writes; the database is then left as it is."""
        return self._index.read_only

    def sync(self, *, check: bool = False) -> tuple[int, int]:
        """Bring the database up to date with the index.

        Args:
            check: read what the database holds, instead of trusting what this object wrote.

        Returns:
            How many documents were stored and how many removed.

        Raises:
            CandidateSourceError: the database failed; call this again.
        """
        with self._lock:
            known = self._source.versions() if check else self._known
            commit, wanted = self._wanted()
            gone = [id_ for id_ in known if id_ not in wanted]
            new = {id_ for id_, version in wanted.items() if known.get(id_) != version}
            if not self.read_only:
                self._known = known
                for some in _batches(gone):
                    self._source.delete(some)
                    for id_ in some:
                        del known[id_]
                for ids, vectors in self._vectors(new) if new else ():
                    versions = [wanted[id_] for id_ in ids]
                    self._source.upsert(ids, vectors, versions)
                    known.update(zip(ids, versions, strict=True))
            held = {id_ for id_ in wanted if known.get(id_) == wanted[id_]}
            self._without = frozenset(id_ for id_ in self._index.ids() if id_ not in held)
            self._commit = commit
            return (0, 0) if self.read_only else (len(new), len(gone))

    def _wanted(self) -> tuple[int, dict[str, str]]:
        """The commit, and the version of each document's vector.

        Where documents have vectors of two maps, those of the map with most documents count.
        """
        commit = self._index.commit
        found: dict[str, dict[str, str]] = {}
        for block in self._index.document_vectors():
            versions = (f"{block.map}:{zlib.crc32(vector):08x}" for vector in block.vectors)
            found.setdefault(block.map, {}).update(zip(block.ids, versions, strict=True))
        self._map = max(found, key=lambda name: len(found[name]), default="")
        return commit, found.get(self._map, {})

    def _vectors(self, ids: set[str]) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """The vectors of some documents, a few at a time."""
        for block in self._index.document_vectors():
            if block.map == self._map:
                here = [n for n, id_ in enumerate(block.ids) if id_ in ids]
                for some in _batches(here):
                    yield [block.ids[n] for n in some], block.vectors[some]

    def search_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `FastLaneIndex.search_batch_detailed`; `candidates` counts those of the database.

        Raises:
            CandidateSourceError: the database failed.
        """
        told = SearchOptions.of(k=k, **options)
        given = check_queries(queries)
        words = query_texts(given, texts, told)
        elsewhere = told.lane in (None, "vector") and not told.hybrid and told.refine
        if not elsewhere or not given or not told.k:
            return self._index.search_batch_detailed(given, k, texts=words, **options)
        if self._commit != self._index.commit:  # another object wrote
            self.sync()
        if not self._map or len(self._without) > _MOST_WITHOUT:
            return self._index.search_batch_detailed(given, k, texts=words, **options)
        encoded = encoded_queries(lambda: self.model, given, self.dim)
        passing = None if told.filter is None else self._index.ids(told.filter)
        results = [self._answer(query, told, passing, options) for query in encoded]
        give_evidence(lambda: self.model, given, results, told, self._index.policy)
        return results

    def _answer(
        self, query: EncodedQuery, told: SearchOptions, passing: list[str] | None, options: SearchKeywords
    ) -> SearchResult:
        """Refine the candidates of one query, asking for more until enough of them pass the filter."""
        policy = told.policy or self._index.policy
        count = policy.by_vector(told.k, told.depth)
        matching = len(self._index) if passing is None else len(passing)
        rows = query.embeddings * query.weights[:, None] if told.weighted else query.embeddings
        vector = self._index.query_vectors(rows).get(self._map)
        few = passing if passing is not None and len(passing) <= _MOST_IDS else None
        allowed = None if passing is None or few is not None else set(passing)
        most = matching if allowed is None else len(self._index)
        while vector is not None and count < most:
            found = self._source.candidates(vector, count, few)
            chosen = [id_ for id_ in found if allowed is None or id_ in allowed]
            if len(chosen) >= min(told.k, matching - len(self._without)):
                return self._refined(query, told, [*chosen, *self._without], options)
            count *= _WIDER
        [result] = self._index.search_batch_detailed([query], told.k, **options)
        return result

    def _refined(
        self, query: EncodedQuery, told: SearchOptions, chosen: list[str], options: SearchKeywords
    ) -> SearchResult:
        """The best of some documents by all tokens."""
        these: Filter = {"$id": {"$in": chosen}}
        both = these if told.filter is None else {"$and": [told.filter, these]}
        whole = cast("SearchKeywords", {**options, "filter": both, "lane": "exhaustive", "route_k": "all"})
        [result] = self._index.search_batch_detailed([query], told.k, **whole)
        return replace(result, lane="vector", candidates=len(chosen))

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add`."""
        added = self._index.add(texts, ids, metadatas, batch_size=batch_size, show_progress=show_progress)
        self.sync()
        return added

    def add_embeddings(
        self,
        rows: Iterable[Any],
        ids: Iterable[str | None] | None,
        texts: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add_embeddings`."""
        added = self._index.add_embeddings(rows, ids, texts, metadatas)
        self.sync()
        return added

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        batch_size: int | None = None,
        total: int | None = None,
        show_progress: bool | None = None,
    ) -> Ingested:
        """As `FastLaneIndex.ingest`; the database is brought up to date at the end."""
        done = self._index.ingest(documents, batch_size=batch_size, total=total, show_progress=show_progress)
        self.sync()
        return done

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """As `FastLaneIndex.delete`."""
        deleted = self._index.delete(ids, filter=filter)
        self.sync()
        return deleted

    def update_metadata(self, ids: Iterable[str], metadatas: Iterable[Mapping[str, Any] | None]) -> int:
        """As `FastLaneIndex.update_metadata`."""
        return self._index.update_metadata(ids, metadatas)

    def optimize(self) -> None:
        """As `FastLaneIndex.optimize`; afterwards more documents have vectors, which go to the database."""
        self._index.optimize()
        self.sync()

    def compact(self, *, retrain: bool = False) -> None:
        """As `FastLaneIndex.compact`; with `retrain` every document's vector is new."""
        self._index.compact(retrain=retrain)
        self.sync()

    def get(self, ids: Iterable[str]) -> list[Document]:
        """As `FastLaneIndex.get`."""
        return self._index.get(ids)

    def find(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """As `FastLaneIndex.find`."""
        return self._index.find(filter, limit, offset)

    def ids(self, filter: Filter | None = None) -> list[str]:
        """As `FastLaneIndex.ids`."""
        return self._index.ids(filter)

    def explain(
        self, query: str, hit: Hit | str, *, route_k: RouteK | None = None, weighted: bool = True
    ) -> Explanation:
        """As `FastLaneIndex.explain`."""
        return self._index.explain(query, hit, route_k=route_k, weighted=weighted)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, codec: str | None = None) -> None:
        """As `FastLaneIndex.save`; the copy is an index of its own, without the database."""
        self._index.save(path, overwrite=overwrite, codec=codec)

    def stats(self) -> IndexStats:
        """As `FastLaneIndex.stats`."""
        return self._index.stats()

    def verify(self, *, repair: bool = False) -> list[str]:
        """As `FastLaneIndex.verify`, and whether the database holds the vectors of the index and no others.

        Args:
            repair: bring the database up to date first.

        Raises:
            CandidateSourceError: the database failed.
        """
        if repair:
            self.sync(check=True)
        wrong = self._index.verify()
        with self._lock:
            held = self._source.versions()
            _, wanted = self._wanted()
        lacking = [id_ for id_ in wanted if id_ not in held]
        stale = [id_ for id_ in wanted if id_ in held and held[id_] != wanted[id_]]
        over = [id_ for id_ in held if id_ not in wanted]
        for some, what in ((lacking, "lacks"), (stale, "has another vector of"), (over, "has, and the index has not,")):
            if some:
                wrong.append(f"the database {what} {len(some)} documents, such as {some[0]!r}: verify(repair=True)")
        return wrong

    def close(self) -> None:
        """Close the index; the database's connection is its owner's."""
        self._index.close()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._index

    def __len__(self) -> int:
        return len(self._index)


def _batches(values: list[T]) -> Iterator[list[T]]:
    return (values[first : first + _BATCH] for first in range(0, len(values), _BATCH))
