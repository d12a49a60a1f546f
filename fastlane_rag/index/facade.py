"""FastLaneIndex: the collection of documents that users hold in their hands."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from fastlane_rag.codecs.policy import check_codec
from fastlane_rag.errors import (
    FastLaneError,
    IndexClosedError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidInputError,
    ModelMismatchError,
)
from fastlane_rag.explain import Explanation
from fastlane_rag.index.checks import check_ids, check_queries, new_metadata, prepare, query_texts
from fastlane_rag.index.encoding import (
    budget_of,
    encoded_entries,
    encoded_queries,
    model_device,
    open_model,
)
from fastlane_rag.index.evidence import explained, give_evidence
from fastlane_rag.index.images import AddsImages, check_same_images
from fastlane_rag.index.ingestion import ingest
from fastlane_rag.index.options import IndexKeywords, IndexOptions
from fastlane_rag.index.outside import OutsideModel, PlainQuery, prepare_rows
from fastlane_rag.index.searches import Searches
from fastlane_rag.index.vectors import VectorBlock, blocks_of
from fastlane_rag.lengths import check_max_document_tokens, check_texts, is_text, one_warning, plain
from fastlane_rag.search.engines.choice import check_device, device_engine, is_cuda
from fastlane_rag.search.options import (
    SearchKeywords,
    SearchOptions,
    check_count,
    check_flag,
    check_policy,
    check_seconds,
)
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.query import EncodedQuery
from fastlane_rag.search.result import Hit, SearchResult, warn_of_hints
from fastlane_rag.search.state import SearchStates
from fastlane_rag.search.tracing import search_span
from fastlane_rag.storage.creation import holds_index
from fastlane_rag.storage.folder import index_path
from fastlane_rag.storage.fork import reset_after_fork
from fastlane_rag.storage.lock import TIMEOUT_SECONDS
from fastlane_rag.storage.tables import Entry
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.types import Document, IndexStats, Ingested, RouteK
from fastlane_rag.upkeep.build import built_beside
from fastlane_rag.upkeep.copy import copy_live
from fastlane_rag.upkeep.verify import problems
from fastlane_rag.upkeep.worker import Upkeep
from fastlane_rag.upkeep.write import store_documents

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.bm25 import WordStatistics
    from fastlane_rag.storage.filters import Filter

__all__ = ["FastLaneIndex"]


class FastLaneIndex(Searches, AddsImages):
    """Documents with their token embeddings, on disk or in memory.

    Every write is one transaction: after a crash the index is as before it or as after it. Objects, threads and
    processes that write take turns, a write or an `ingest` each. Any number of threads and processes read, each search
    at one consistent commit, and see later commits by themselves. Made by `create`, `build` or `open`.

    Example:
        >>> index = FastLaneIndex.create()
        >>> index.add(["Cats purr.", "Dogs bark."], ids=["cat", "dog"], metadatas=[{"legs": 4}, {"legs": 4}])
        ['cat', 'dog']
        >>> index.search("what does a cat do?", k=1)[0].id
        'cat'
    """

    def __init__(
        self,
        storage: Storage,
        model: Any,
        *,
        device: str | None = None,
        read_only: bool,
        policy: SearchPolicy | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_document_tokens: int | None = None,
    ) -> None:
        self._device = device
        self._states = SearchStates(policy or SearchPolicy())
        self._hold(storage)
        self._timeout = timeout
        self._engine = device_engine(device, self._states.policy)
        self._given_model = self._pickled_model = model
        named = isinstance(model, str | os.PathLike) and OutsideModel.of(storage.meta) is None
        if named and os.path.isdir(model):  # noqa: PTH112 (which takes names of any length)
            # Found from other directories too, as the index is.
            self._pickled_model = str(Path(plain(os.fsdecode(model))).absolute())
        self._max_document_tokens = storage.max_document_tokens if max_document_tokens is None else max_document_tokens
        self._model: FastLaneModel | None = None
        self._model_lock = threading.Lock()
        self._read_only = read_only
        _open_indexes.add(self)

    def _hold(self, storage: Storage) -> None:
        self._storage = storage
        storage.device = self._device if is_cuda(self._device) else None
        self._upkeep = Upkeep(storage)
        # An index that is dropped without `close`, or open at exit, is closed all the same.
        self._finalizer = weakref.finalize(self, _close, self._upkeep, self._states)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        **options: Unpack[IndexKeywords],
    ) -> Self:
        """Make an empty index. To replace an index by a filled one in one step, use `build`.

        Args:
            path: a new or empty directory; None keeps the index in memory.
            overwrite: replace an index that `path` holds already.
            **options: `model`, `device`, `dim`, `filter_keys`, `codec`, `policy`, `timeout`, `max_document_tokens`: see
                `fastlane_rag.index.options.IndexOptions`.

        Raises:
            InvalidInputError: an option is not what it must be.
            IndexExistsError: `path` holds an index and `overwrite` is false, or holds other files.
            IndexLockedError: another writer holds the index to overwrite.
        """
        return cls._created(path, IndexOptions.of(**options), overwrite=overwrite)

    @classmethod
    def open_or_create(cls, path: str | os.PathLike[str] | None, **options: Unpack[IndexKeywords]) -> Self:
        """Open the index at `path`, or make an empty one where there is none yet.

        Processes that do so at once end with one index.

        Args:
            path: a directory with an index, a new or an empty one; None makes an index in memory.
            **options: as in `create`. An index that exists must have been made with the same.

        Raises:
            ModelMismatchError: the index was made with another model, or one of another size or `document_budget`.
            InvalidInputError: the index was made with another option, or an option is not what it must be.
            IndexExistsError: `path` holds other files.
            IndexFormatError: a file of the index is damaged, or newer than this version of fastlane-rag.

        Example:
            >>> for _ in range(2):
            ...     with FastLaneIndex.open_or_create(tmp / "docs.index") as index:
            ...         _ = index.add(["Cats purr."], ids=["cat"])
            >>> len(FastLaneIndex.open(tmp / "docs.index"))
            1
        """
        told = IndexOptions.of(**options)
        if path is None:
            return cls._created(None, told)
        with suppress(IndexNotFoundError):  # or not made to the end
            return cls._opened(path, told)
        try:
            return cls._created(path, told)
        except IndexExistsError:  # another process was first, or there are other files
            if not holds_index(index_path(path)):
                raise
            return cls._opened(path, told)

    @classmethod
    def _created(cls, path: str | os.PathLike[str] | None, told: IndexOptions, *, overwrite: bool = False) -> Self:
        """An empty index, made with some options."""
        model = told.opened_model()
        directory = None if path is None else index_path(path)
        keys, meta = tuple(told.filter_keys), told.meta(model)
        storage = Storage.create(directory, meta, keys, overwrite=overwrite, timeout=told.timeout)
        return cls._made(storage, told, model)

    @classmethod
    def _opened(cls, path: str | os.PathLike[str], told: IndexOptions) -> Self:
        """The index at a path, checked to have been made with some options."""
        index = cls.open(path, model=told.model, device=told.device, policy=told.policy, timeout=told.timeout)
        try:
            told.check_made(index.stats())
            index.document_model()
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    @contextmanager
    def build(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        **options: Unpack[IndexKeywords],
    ) -> Iterator[Self]:
        """An empty index to fill in a `with` block, which appears at `path` when the block ends without an error.

        Until then an index that `path` holds stays as it is, and readers go on with it. An error in the block, a signal
        or a crash leave it. After the block the object is open, at `path`.

        Args:
            path: as in `create`, like all other arguments.
            overwrite: whether to replace an index.
            **options: as in `create`.

        Raises:
            InvalidInputError: an option is not what it must be.
            IndexExistsError: `path` holds an index and `overwrite` is false, or holds other files.
            IndexLockedError: another writer holds the index to replace.

        Example:
            >>> with FastLaneIndex.build() as index:
            ...     _ = index.add(["Cats purr."])
            >>> len(index)
            1
        """
        told = IndexOptions.of(**options)
        model = told.opened_model()
        keys, meta = tuple(told.filter_keys), told.meta(model)
        if path is None:
            index = cls._made(Storage.create(None, meta, keys, overwrite=False), told, model)
            yield index
            index._upkeep.after_build()
            return
        directory = index_path(path)
        with built_beside(directory, meta, keys, overwrite=overwrite, timeout=told.timeout) as storage:
            index = cls._made(storage, told, model)
            try:
                yield index
                index._upkeep.after_build()
            except BaseException:
                index.close(wait=False)
                raise
        index._hold(Storage.open(directory, read_only=False, timeout=told.timeout))

    @classmethod
    def _made(cls, storage: Storage, told: IndexOptions, opened: FastLaneModel) -> Self:
        index = cls(storage, told.model, device=told.device, read_only=False, policy=told.policy, timeout=told.timeout)
        index._model = opened
        return index

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Any = None,
        device: str | None = None,
        read_only: bool = False,
        policy: SearchPolicy | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_document_tokens: int | None = None,
    ) -> Self:
        """Open an index directory.

        Args:
            path: the directory.
            model: the model the index was made with, as `create` takes it. None loads the bundled model when
                a search or a write first needs it. What is loaded here keeps as many tokens of a document as the
                model that the index was made with did (`document_budget`). An index of embeddings that are made
                elsewhere (`create(dim=...)`) needs none; the name of their model, if given, is compared.
            device: as in `create`.
            read_only: refuse writes; needed where the directory cannot be written.
            policy: constants of planning for this object's searches; None for the measured defaults.
            timeout: seconds that a write waits for writers in other objects and processes.
            max_document_tokens: as in `create`, for what this object encodes; None: as the index was made.

        Raises:
            InvalidInputError: `max_document_tokens` is no whole number from 1.
            DeviceError: there is no such CUDA device, or it cannot be used.
            IndexNotFoundError: there is no index at `path`.
            IndexFormatError: a file is damaged, or newer than this version of fastlane-rag.
            ModelMismatchError: the index was made with another model.
        """
        most = check_max_document_tokens(max_document_tokens)
        check_device(device)
        check_policy(policy)
        storage = Storage.open(index_path(path), read_only=read_only, timeout=check_seconds(timeout))
        index = cls(
            storage,
            model,
            device=device,
            read_only=read_only,
            policy=policy,
            timeout=timeout,
            max_document_tokens=most,
        )
        try:
            with index._storage.view():  # opens the segments, so that what is broken is told now
                pass
            if model is not None:
                _ = index.model
        except BaseException:
            index.close()
            raise
        return index

    @property
    def path(self) -> Path | None:
        """The index directory; None in memory."""
        return self._storage.path

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._read_only

    @property
    def policy(self) -> SearchPolicy:
        """The constants of planning that searches of this object take where they bring none."""
        return self._states.policy

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self._storage.dim

    @property
    def model(self) -> FastLaneModel:
        """The model that encodes documents and queries, loaded when first needed.

        Raises:
            ModelMismatchError: it is not the model the index was made with.
        """
        with self._model_lock:
            if self._model is None:
                model = self._load_model()
                if model.fingerprint != self._storage.meta["fingerprint"]:
                    self._check_dimensions(model)
                    raise ModelMismatchError(
                        f"the index {self.path} was made with the model {self._storage.meta['model']!r}, whose "
                        f"embeddings differ from those of {model.name!r}; open it with "
                        "FastLaneIndex.open(path, model=...) and that model, or encode its documents again: "
                        f"fastlane reindex {self.path} --model MODEL"
                    )
                self._model = model
            return self._model

    def _check_dimensions(self, model: FastLaneModel) -> None:
        """Say so where a model is the index's own but for the dimensions it keeps.

        Raises:
            ModelMismatchError: it is.
        """
        made, given = self._storage.truncate_dim, getattr(model, "truncate_dim", None)
        if made == given or not hasattr(model, "truncated"):
            return
        fits = made is None or made <= model.truncated(None).dim
        if fits and model.truncated(made).fingerprint == self._storage.meta["fingerprint"]:
            raise ModelMismatchError(
                f"the index {self.path} was made with truncate_dim={made} ({self.dim} dimensions), the model "
                f"{model.name!r} that was given has truncate_dim={given} ({model.dim}); open the index with "
                f"model.truncated({made})"
            )

    def _load_model(self) -> FastLaneModel:
        given, meta = self._given_model, self._storage.meta
        outside = OutsideModel.of(meta)
        if outside is not None and (given is None or isinstance(given, str)):
            return open_model(outside.name if given is None else given, dim=outside.dim)
        budget, most = self._storage.document_budget, self._max_document_tokens
        kept = self._storage.truncate_dim
        # An object that encodes stays as it is, unless it is a whole model; `model` says where it differs.
        follows = not hasattr(given, "encode_documents") or getattr(given, "truncate_dim", False) is None
        asked = kept if follows else None
        return open_model(given, budget, most, truncate_dim=asked, device=model_device(given, self._device))

    def document_model(self) -> FastLaneModel:
        """The model that encodes documents to add. It must keep as many tokens of a document as before.

        Raises:
            ModelMismatchError: it keeps another number of tokens.
        """
        model, kept = self.model, self._storage.document_budget
        if "document_budget" in self._storage.meta and budget_of(model) != kept:
            raise ModelMismatchError(
                f"the index {self.path} was made with document_budget={kept}, the model that was given has "
                f"{budget_of(model)}; open the index without model=, or with a model of that document_budget"
            )
        return model

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """Add documents, and replace those whose id is stored already. An error stores none of them.

        A text longer than the model's window is encoded in windows, to its end or to `max_document_tokens`. A document
        whose text is stored under its id already is not encoded again. All of them are in memory
        at once: `ingest` takes what does not fit.

        Args:
            texts: the documents.
            ids: one a text, or None (for all or for some) to have one generated. Of an id given twice the
                last text counts.
            metadatas: one JSON object a text.
            batch_size: texts encoded at once; None lets the model choose.
            show_progress: a progress bar on stderr; None shows it for large additions on a terminal.

        Returns:
            The id of each text, in input order.

        Raises:
            InvalidInputError: lengths differ, or something is not text or not JSON.
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
            StorageError: the disk is full, or failed.
        """
        final, entries = prepare(texts, ids, metadatas)
        with self._storage.turn(), one_warning():
            if entries:
                self._upkeep.after_write(self._store(entries, batch_size, show_progress))
        return final

    def add_embeddings(
        self,
        rows: Iterable[Any],
        ids: Iterable[str | None] | None,
        texts: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """Add documents with token embeddings that were made elsewhere, and replace those whose id is stored already.

        Args:
            rows: one (L, dim) array or tensor for each document, L at least 1, its rows L2-normalised.
            ids: as in `add`.
            texts: for hits, and for hybrid searches; None stores empty ones.
            metadatas: as in `add`.

        Returns:
            The id of each document, in input order.

        Raises:
            InvalidInputError: lengths differ, or rows have another shape, are not finite or not normalised; nothing is
                stored then.
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.

        Example:
            >>> index = FastLaneIndex.create(dim=4, model="my-model")
            >>> index.add_embeddings([[[1, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 0]]], ids=["a", "b"])
            ['a', 'b']
            >>> index.search_embeddings([[0, 0, 0.8, 0.6]], k=1)[0].id
            'b'
        """
        final, entries, latest = prepare_rows(rows, self.dim, ids, texts, metadatas)
        with self._storage.turn():
            if entries:
                own = iter([latest[id_] for id_, *_ in entries])
                self._upkeep.after_write(store_documents(self._storage, entries, lambda _: own, always=True))
        return final

    def adopt(self, documents: Sequence[Document], rows: Iterable[NDArray[np.floating]]) -> None:
        """Add documents of another index with the rows that its `embeddings` gave; an id that is stored here stays.

        Rows that were in code are not of length 1 any more, and are taken as they are.

        Raises:
            InvalidInputError: rows have another size than those of this index.
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
        """
        own = {one.id: row for one, row in zip(documents, rows, strict=True)}
        if wrong := [row.shape for row in own.values() if row.shape[1:] != (self.dim,)]:
            raise InvalidInputError(f"rows must have the shape (tokens, {self.dim}), not {wrong[0]}")
        with self._storage.turn():
            with self._storage.view() as view:
                new = [one for one in documents if not view.reader.has(one.id)]
            if new:
                _, entries = prepare(*zip(*((one.text, one.id, one.metadata) for one in new), strict=True))
                given = iter([own[id_] for id_, *_ in entries])
                self._upkeep.after_write(store_documents(self._storage, entries, lambda _: given, always=True))

    def _store(self, entries: Sequence[Entry], batch_size: int | None, show_progress: bool | None) -> int:
        """Store documents. Returns how many token rows they brought."""
        return store_documents(
            self._storage,
            entries,
            lambda new: encoded_entries(self.document_model(), new, batch_size, show_progress) if new else iter(()),
        )

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        batch_size: int | None = None,
        total: int | None = None,
        show_progress: bool | None = None,
    ) -> Ingested:
        """Add documents from a stream of any length, such as a generator, in bounded memory.

        A few hundred documents at a time are one write: what is stored stays stored when a later write fails
        or the process dies. Calling it again with the same stream goes on where it stopped, because documents
        that are stored unchanged are neither encoded nor written. Of an id given twice the last document counts.

        Args:
            documents: `fastlane_rag.types.Document`, each with an id that is the same the next time.
            batch_size: texts encoded at once; None lets the model choose.
            total: how many documents there are, where that is known, for the progress bar.
            show_progress: a progress bar on stderr; None shows it for long streams on a terminal.

        Returns:
            How many documents came, and how many of them were new, changed and unchanged.

        Raises:
            InvalidInputError: an item is no document, or holds what cannot be stored; the writes before it stay.
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
            StorageError: the disk is full, or failed.

        Example:
            >>> index = FastLaneIndex.create()
            >>> index.ingest(Document(str(n), f"Line {n}.") for n in range(3))
            Ingested(documents=3, added=3, changed=0, unchanged=0)
        """
        with self._storage.turn(), one_warning():
            return ingest(
                documents,
                self.get,
                partial(self._store, batch_size=batch_size, show_progress=False),
                self._upkeep.after_write,
                total=total,
                show_progress=show_progress,
            )

    def search_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch`, with what each search took.

        Args:
            queries: texts, or queries that the index's model has encoded (`model.encode_routed`). Only hits of texts
                can explain themselves.
            k: as in `search`.
            texts: of queries that come encoded; a hybrid search and the lane of words need them. Of queries that are
                texts: what these search by instead.
            **options: as in `search`.

        Raises:
            InvalidInputError: an option or a query is not what it must be.
            FilterError: the filter means nothing.
            IndexClosedError: the index is closed.
        """
        return self.search_part(None, queries, k, texts=texts, **options)

    def search_part(
        self,
        whole: WordStatistics | None,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch_detailed`, of an index that is a part of a larger collection.

        Args:
            whole: statistics of the words of that collection (`word_statistics` of all parts, added up). BM25 is then
                that of the collection, and a hybrid search gives its candidates as `pool` instead of hits. None where
                this index is the whole collection, and where words do not count.
            queries: as in `search_batch_detailed`.
            k: as in `search`.
            texts: as in `search_batch_detailed`.
            **options: as in `search`.

        Raises:
            InvalidInputError: an option or a query is not what it must be.
            FilterError: the filter means nothing.
            IndexClosedError: the index is closed.
        """
        from fastlane_rag.search.plan import answer

        told = SearchOptions.of(k=k, **options)
        queries = check_queries(queries)
        by_words = told.lane == "words"
        words = query_texts(queries, texts, told)
        if told.route_k not in (None, "all") and any(isinstance(query, PlainQuery) for query in queries):
            raise InvalidInputError(
                f"route_k={told.route_k!r}, but no router chooses among embeddings that were made elsewhere: all "
                "tokens gather, so leave route_k out"
            )
        with search_span(told, len(queries)) as span:
            encoded = (
                [PlainQuery.without_tokens() for _ in queries]
                if by_words
                else encoded_queries(lambda: self.model, queries, self.dim)
            )
            span.encoded()
            with self._storage.view() as view:
                results = answer(
                    view, self._states.of(view.snapshot), encoded, told, words, engine=self._engine, whole=whole
                )
            span.found(results)
        warn_of_hints(results)
        give_evidence(lambda: self.model, queries, results, told, self.policy)
        return results

    def explain(
        self, query: str, hit: Hit | str, *, route_k: RouteK | None = None, weighted: bool = True
    ) -> Explanation:
        """Which tokens of a query were routed, and where in a document each of them found its match.

        Args:
            query: the query.
            hit: a hit, or the id of a document.
            route_k: as in `search`.
            weighted: as in `search`.

        Returns:
            An explanation, whose `spans` say what to highlight in the text; of an image an `ImageExplanation`, whose
            `heat_map` draws the query's tokens over it.

        Raises:
            InvalidInputError: no document has this id, or the query is no text.
            ModelError: the model cannot say where its tokens are.
        """
        return explained(self.model, self.get, query, hit, route_k, self.policy, weighted=weighted)

    def word_statistics(self, queries: Iterable[str]) -> WordStatistics:
        """What this index adds to the statistics of a larger collection, for BM25 with the words of some queries."""
        asked = check_texts(queries, "queries")
        with self._storage.view() as view:
            return self._states.of(view.snapshot).lexical(view.reader).statistics(asked)

    def embeddings(self, ids: Iterable[str]) -> list[NDArray[np.float32]]:
        """The token embeddings of documents as they are stored: an (L, dim) float32 array each, decoded where in code.

        Raises:
            InvalidInputError: an id is not stored.
        """
        wanted = check_ids(ids)
        with self._storage.view() as view:
            places = view.reader.places_of(wanted)
            if missing := [id_ for id_ in wanted if id_ not in places]:
                raise InvalidInputError(f"the index holds no document with the id {missing[0]!r}")
            return [rows.astype("f4") for rows in view.snapshot.rows_at(places[id_] for id_ in wanted)]

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids, in this order; ids that are not stored are left out."""
        wanted = check_ids(ids)
        with self._storage.view() as view:
            return view.reader.get(wanted)

    def find(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """Read documents without a query, in the order of their first addition.

        Args:
            filter: as in `search`; None passes every document.
            limit: how many documents at most; None for all that are left.
            offset: how many of the documents that pass to leave out first.

        Raises:
            FilterError: the filter means nothing.
            InvalidInputError: `limit` or `offset` is no whole number from 0.
        """
        most, first = None if limit is None else check_count(limit, "limit"), check_count(offset, "offset")
        with self._storage.view() as view:
            return view.reader.find(filter, most, first)

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all documents, or of those that pass a filter, in the order of their first addition."""
        with self._storage.view() as view:
            return view.reader.ids(filter)

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by id, by filter, or by both: then an id must also pass the filter.

        Args:
            ids: ids that are not stored are ignored; an empty list deletes nothing.
            filter: as in `search`; `{}` passes every document.

        Returns:
            How many documents were deleted.

        Raises:
            InvalidInputError: neither ids nor a filter is given.
        """
        if ids is None and filter is None:
            raise InvalidInputError("delete() needs ids or a filter; filter={} deletes every document")
        wanted = None if ids is None else check_ids(ids)
        with self._storage.turn():
            with self._storage.change() as change:
                if filter is not None:
                    passing = change.ids(filter)
                    wanted = passing if wanted is None else sorted(set(wanted) & set(passing))
                deleted = change.delete(wanted or [])
            self._upkeep.after_write(0)
        return deleted

    def update_metadata(self, ids: Iterable[str], metadatas: Iterable[Mapping[str, Any] | None]) -> int:
        """Replace the metadata of stored documents, without encoding their text again.

        Args:
            ids: ids that are not stored are ignored.
            metadatas: the new JSON object of each.

        Returns:
            How many documents were changed.

        Raises:
            InvalidInputError: lengths differ, or something is not JSON; nothing is changed then.
        """
        new = new_metadata(ids, metadatas)
        with self._storage.change() as change:
            check_same_images(change.images(list(new)), new)
            return change.set_metadata(new.items())

    @property
    def commit(self) -> int:
        """How many writes the index has seen; it changes with every one, also of another process."""
        with self._storage.view() as view:
            return view.snapshot.commits

    def document_vectors(self) -> Iterator[VectorBlock]:
        """The fitted vectors of the documents in code, a few thousand at a time: for a database that searches by them.

        Documents that wait to be brought into code have none; see `optimize`.
        """
        with self._storage.view() as view:
            yield from blocks_of(view)

    def query_vectors(self, rows: Any) -> dict[str, NDArray[np.float32]]:
        """The vectors of a query, to be multiplied with those of documents.

        Args:
            rows: (L, dim) the query's token embeddings, times their weights where these count.

        Returns:
            (m,) float32 by the name of each map that documents' vectors come from (`VectorBlock.map`).
        """
        with self._storage.view() as view:
            known = self._states.of(view.snapshot).vectors(view.reader)
            return {name: vector for name, (vector, _) in known.queries(rows).items()}

    def optimize(self) -> None:
        """Merge segments, train the codec and bring segments into it, as far as that is due; return when it is done.

        A write does at once what handles no more tokens than it brought, and leaves the rest to a thread in the
        background, which searches and other writes do not wait for. Call this where that has to be over: after
        loading, before measuring, in a quiet hour. It raises what went wrong in the background, if it still does.
        Graphs of vectors that searches of this object asked for are built as well.

        Raises:
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
            StorageError: the disk is full, or failed.
        """
        self._upkeep.finish()
        self._states.wait()

    def compact(self, *, retrain: bool = False) -> None:
        """Rewrite the live rows into one segment and give the space of dead ones back; readers go on.

        Args:
            retrain: train the codec anew, on a sample of all documents: for an index whose documents have changed
                much. Documents in code are decoded and encoded once more, which loses a little.
        """
        self._upkeep.compact(retrain=check_flag(retrain, "retrain"))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, codec: str | None = None) -> None:
        """Copy the live documents into a directory that `open` opens, without encoding them again.

        The copy is of one commit, and reads and writes go on meanwhile: this is how to back up an index in use. What
        copies the files of an open index instead copies several moments, and in the same process (`shutil.copytree`,
        `tarfile`, an upload) takes the locks away that keep other processes from deleting its log.

        Args:
            path: a new or empty directory. Where the index lives already, there is nothing to do; its codec cannot
                change there.
            overwrite: replace an index that `path` holds already, in one transaction.
            codec: how the copy stores token embeddings, as `create` takes it; None keeps it as it is. From "fp16"
                every other codec is as good as if the documents were added again.

        Raises:
            IndexExistsError: `path` holds an index and `overwrite` is false, or holds other files.
            IndexLockedError: another writer holds the index to overwrite.
            InvalidInputError: there is no such codec, or the index has another one and `path` is its own.
            StorageError: the disk is full, or failed.
        """
        stored = self._storage.meta["codec"] if codec is None else check_codec(codec)
        directory = index_path(path)
        if self.path is not None and os.path.realpath(directory) == os.path.realpath(self.path):
            now = self._storage.meta["codec"]
            if stored != now:
                raise InvalidInputError(
                    f"the index {self.path} stores {now!r} and cannot become {stored!r} where it is; save it elsewhere"
                )
            return
        if self.path is not None and Path(os.path.realpath(self.path)) in Path(os.path.realpath(directory)).parents:
            raise InvalidInputError(f"{directory} is inside the index {self.path}; save it elsewhere")
        source = self._storage
        meta = {**source.meta, "codec": stored}
        with built_beside(directory, meta, source.filter_keys, overwrite=overwrite, timeout=self._timeout) as target:
            copy_live(source, target, stored)
            if stored != source.meta["codec"]:
                Upkeep(target).finish()

    def verify(self) -> list[str]:
        """Read every byte and say what is wrong: one sentence a problem, naming the file; empty when sound."""
        return list(problems(self._storage))

    def stats(self) -> IndexStats:
        """What the index holds and takes, on the device as well, and what there is still to do for it."""
        found = replace(self._storage.stats(), upkeep=self._upkeep.state())
        return found if self._engine is None else replace(found, device=self._engine.stats())

    def close(self, *, wait: bool = True) -> None:
        """Release files; an index in memory is gone. Closing twice is fine.

        Args:
            wait: first let the merging and training go on that writes left to the background. Without this, and after
                an interrupt, it is given up, which loses no document: the next write begins it anew.
        """
        try:
            if wait and self._finalizer.alive:
                self._upkeep.wait()
        finally:
            self._finalizer()
            _open_indexes.discard(self)

    def __len__(self) -> int:
        with self._storage.view() as view:
            return view.snapshot.documents

    def __contains__(self, id_: object) -> bool:
        with self._storage.view() as view:
            return is_text(id_) and view.reader.has(id_)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=kind is None)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError(
                "an in-memory FastLaneIndex cannot be pickled; create it with a path, which the copy then opens, "
                "or save(path) it and open that"
            )
        options = {
            "model": self._pickled_model,
            "device": self._device,
            "read_only": self._read_only,
            "policy": self.policy,
            "timeout": self._timeout,
            "max_document_tokens": self._max_document_tokens,
        }
        return _reopen, (str(self.path), options)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        try:
            return f"FastLaneIndex({where}, {len(self)} documents)"
        except IndexClosedError:
            return f"FastLaneIndex({where}, closed)"
        except FastLaneError:  # replaced or damaged: what uses it tells
            return f"FastLaneIndex({where}, cannot be read)"


_open_indexes: weakref.WeakSet[FastLaneIndex] = weakref.WeakSet()


def _close(upkeep: Upkeep, states: SearchStates) -> None:
    states.close()
    upkeep.close()


def _after_fork() -> None:
    for index in list(_open_indexes):
        index._model_lock = threading.Lock()
        index._storage.after_fork()
        index._upkeep.after_fork()
        index._states.clear()
        if index._engine is not None:
            index._engine.after_fork()


reset_after_fork(_after_fork)


def _reopen(path: str, options: dict[str, Any]) -> FastLaneIndex:
    """What unpickling calls."""
    return FastLaneIndex.open(path, **options)
