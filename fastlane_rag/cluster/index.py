"""ClusterIndex: documents over many shards, with the face of `FastLaneIndex`."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, KeysView, Mapping, Sequence, ValuesView
from dataclasses import fields, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from ray import cloudpickle

from fastlane_rag.cluster.manifest import EMPTY, Manifest, shard_of
from fastlane_rag.cluster.merging import ClusterResult, best_hits, doubled, merged, ranked
from fastlane_rag.cluster.shards import Answers, Shards, present
from fastlane_rag.errors import (
    FastLaneError,
    IndexClosedError,
    IndexExistsError,
    InvalidInputError,
    ShardUnavailableError,
)
from fastlane_rag.explain import Explanation
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.checks import check_ids, check_queries, new_metadata, prepare, query_texts
from fastlane_rag.index.encoding import encoded_entries, encoded_queries
from fastlane_rag.index.evidence import explained, give_evidence
from fastlane_rag.index.images import AddsImages
from fastlane_rag.index.ingestion import ingest
from fastlane_rag.index.options import IndexKeywords, IndexOptions
from fastlane_rag.index.outside import PlainQuery, prepare_rows
from fastlane_rag.index.searches import Searches
from fastlane_rag.lengths import is_text, one_warning, warn_caller
from fastlane_rag.search.bm25 import WordStatistics
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
from fastlane_rag.search.tracing import search_span
from fastlane_rag.storage.filters import AllOf, compile_filter
from fastlane_rag.storage.folder import index_path
from fastlane_rag.storage.metadata import image_of, metadata_from_json, metadata_json
from fastlane_rag.storage.refusals import refusals
from fastlane_rag.storage.tables import Entry
from fastlane_rag.types import Document, IndexStats, Ingested, RouteK

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.storage.filters import Filter

__all__ = ["ClusterIndex", "ClusterResult"]

T = TypeVar("T")

_START_SECONDS = 180.0
# Documents that move to a new shard in one step: so many are in two shards at once, at most.
_MOVED = 64


class ClusterIndex(Searches, AddsImages):
    """Documents over shards, each a `FastLaneIndex` that an actor of Ray holds; used like a `FastLaneIndex`.

    A query is encoded once, here, and asked of all shards at once. SumMaxSim scores of different shards compare as they
    are, and BM25 uses statistics of all shards. So hits and scores are those of one index wherever a search compares
    all documents (`route_k="all"`) and these are in half precision; otherwise each shard gathers and codes by itself.
    Searches and reads also come as coroutines, named with an a in front. Made by `create` or `open`.

    A write is all or nothing on each shard, not across shards: after an error it can be repeated.

    Example:
        ```python
        cluster = ClusterIndex.create("/shared/papers", shards=4, replicas=1)
        cluster.add(texts, ids)
        hits = cluster.search("what does a cat do?", k=5)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: Any = None,
        device: str | None = None,
        partial: bool = False,
        policy: SearchPolicy | None = None,
        timeout: float = 30.0,
        write_timeout: float = 600.0,
    ) -> None:
        self._path = index_path(path).resolve()
        _check_asking(timeout, write_timeout, partial, policy)
        self._given = {
            "model": model,
            "device": device,
            "partial": partial,
            "policy": policy,
            "timeout": timeout,
            "write_timeout": write_timeout,
        }
        self._shards = Shards(self._path, timeout, write_timeout)
        # Knows the model, and checks that it is the right one.
        self._empty = FastLaneIndex.open(self._path / EMPTY, model=model, device=device, read_only=True)
        self._partial, self._policy = partial, policy or SearchPolicy()
        self._thread = _LoopThread()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        shards: int,
        *,
        replicas: int = 0,
        cpus: float = 1.0,
        local: str | None = None,
        partial: bool = False,
        write_timeout: float = 600.0,
        **options: Unpack[IndexKeywords],
    ) -> Self:
        """Make an empty cluster and start it.

        Args:
            path: a new or empty directory that every machine sees.
            shards: how many; more can be added later (`add_shard`).
            replicas: actors of each shard that read only, besides the one that writes. They open its directory, so
                they must run where its SQLite database can be shared: on the machine of its disk.
            cpus: of the machines, for each actor.
            local: a directory on the machines' own disks to keep the shards in. Shard n stays on the machine that was
                started with `ray start --resources '{"fastlane-shard-n": 1}'`.
            partial: as in `open`.
            write_timeout: as in `open`.
            **options: as of `FastLaneIndex.create`; `timeout` is that of `open`.

        Raises:
            InvalidInputError: a number is too small, or an option of the index is not what it must be.
            IndexExistsError: `path` holds files.
            ShardUnavailableError: a shard does not start.
        """
        # All is checked before anything is written, because what lies there would be in the way of another try.
        for value, name, least in ((shards, "shards", 1), (replicas, "replicas", 0)):
            if check_count(value, name) < least:
                raise InvalidInputError(f"{name} must be a whole number from {least}, not {value!r}")
        if isinstance(cpus, bool) or not isinstance(cpus, Real) or not 0 <= cpus < math.inf:
            raise InvalidInputError(f"cpus must be a number, 0 or more, not {cpus!r}")
        timeout = options.pop("timeout", 30.0)
        _check_asking(timeout, write_timeout, partial, options.get("policy"))
        local = None if local is None else str(index_path(local))
        IndexOptions.of(**options)
        directory = index_path(path).resolve()
        with refusals(f"cannot create a cluster in {directory}"):
            if directory.exists() and any(directory.iterdir()):
                raise IndexExistsError(f"{directory} holds files; open it with ClusterIndex.open, or give another path")
            directory.mkdir(parents=True, exist_ok=True)
        with FastLaneIndex.create(directory / EMPTY, **options) as empty:
            stats = empty.stats()
        Manifest(
            id=uuid.uuid4().hex[:12],
            epoch=0,
            shards=shards,
            growing=False,
            replicas=replicas,
            cpus=cpus,
            local=local,
            model=stats.model,
            fingerprint=stats.fingerprint,
        ).write(directory)
        made = cls(
            directory,
            model=options.get("model"),
            device=options.get("device"),
            partial=partial,
            policy=options.get("policy"),
            timeout=timeout,
            write_timeout=write_timeout,
        )
        made._start(make=range(shards))
        return made

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Any = None,
        device: str | None = None,
        partial: bool = False,
        policy: SearchPolicy | None = None,
        timeout: float = 30.0,
        write_timeout: float = 600.0,
    ) -> Self:
        """Open a cluster, and start those of its actors that do not run.

        Args:
            path: the cluster's directory.
            model: as of `FastLaneIndex.open`; it encodes queries and documents here.
            device: where that model runs.
            partial: answer searches without shards that are away, and say so: a warning, and `missing` of each result.
                False raises an error.
            policy: constants of planning for this object's searches.
            timeout: seconds that a shard may take to answer.
            write_timeout: seconds that it may take to write.

        Raises:
            IndexNotFoundError: there is no cluster at `path`.
            IndexFormatError: its manifest is damaged or newer.
            ModelMismatchError: it was made with another model.
            ShardUnavailableError: a shard does not start.
        """
        opened = cls(
            path,
            model=model,
            device=device,
            partial=partial,
            policy=policy,
            timeout=timeout,
            write_timeout=write_timeout,
        )
        opened._start()
        return opened

    def _start(self, make: Iterable[int] = ()) -> None:
        self._seen(self._run(self._shards.start(_START_SECONDS, make=make)), set())

    @property
    def path(self) -> Path:
        """The cluster's directory."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """How many shards and replicas there are."""
        return self._shards.manifest

    @property
    def model(self) -> FastLaneModel:
        """What encodes queries and documents, here."""
        return self._empty.model

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self._empty.dim

    @property
    def policy(self) -> SearchPolicy:
        """The constants of planning that searches of this object take where they bring none."""
        return self._policy

    @property
    def read_only(self) -> bool:
        """False: whoever opens a cluster may write."""
        return False

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add`. They are encoded here, and stored all or none on each shard.

        Raises:
            ShardUnavailableError: a shard cannot be reached; other shards have stored their documents.
        """
        final, entries = prepare(texts, ids, metadatas)
        with one_warning():
            self._store(entries, batch_size, show_progress)
        return final

    def add_embeddings(
        self,
        rows: Iterable[Any],
        ids: Iterable[str | None] | None,
        texts: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add_embeddings`."""
        final, entries, latest = prepare_rows(rows, self.dim, ids, texts, metadatas)
        self._run(self._shards.current(partial(self._put, entries, latest, ())))
        return final

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        batch_size: int | None = None,
        total: int | None = None,
        show_progress: bool | None = None,
    ) -> Ingested:
        """As `FastLaneIndex.ingest`, encoded here; `fastlane_rag.cluster.ingestion` encodes on all machines."""
        store = partial(self._store, batch_size=batch_size, show_progress=False)
        with one_warning():
            return ingest(documents, self.get, store, lambda tokens: None, total=total, show_progress=show_progress)

    def _store(self, entries: Sequence[Entry], batch_size: int | None, show_progress: bool | None) -> int:
        """Store documents; those whose text and image are stored are not encoded again. Returns how many rows came."""
        found = self.get([id_ for id_, *_ in entries])
        stored = {one.id: (one.text, image_of(metadata_json(one.metadata, one.id))) for one in found}
        new: list[Entry] = []
        same: list[Entry] = []
        for id_, text, metadata in entries:
            kept = stored.get(id_) == (text, image_of(metadata))
            (same if kept else new).append((id_, text, metadata))
        encoded = encoded_entries(self._empty.document_model(), new, batch_size, show_progress) if new else ()
        rows = {id_: own.astype("f2") for (id_, *_), own in zip(new, encoded, strict=True)}
        self._run(self._shards.current(partial(self._put, new, rows, same)))
        return sum(map(len, rows.values()))

    async def _put(self, new: Sequence[Entry], rows: Mapping[str, Any], same: Sequence[Entry]) -> None:
        """Store documents with their rows, and new metadata of others, where they belong."""
        asked = {}
        for shard, some in self._by_home(new, lambda entry: entry[0]).items():
            ids, texts, metadatas = zip(*some, strict=True)
            asked[shard] = [rows[id_] for id_ in ids], ids, texts, [*map(metadata_from_json, metadatas)]
        await self._shards.tell("add_embeddings", asked)
        if self.manifest.growing:  # what was stored where a document moves away from is older now
            leaving = list(asked.get(self.manifest.shards, ((), ()))[1])
            await self._shards.tell("delete", {shard: (some,) for shard, some in self._by_old_home(leaving).items()})
        if same:
            ids, _, metadatas = zip(*same, strict=True)
            await self._set_metadata(dict(zip(ids, map(metadata_from_json, metadatas), strict=True)))

    def _by_home(self, items: Iterable[T], id_of: Callable[[T], str]) -> dict[int, list[T]]:
        """Each shard's items, by where documents belong."""
        return _grouped(items, id_of, self.manifest.all_shards)

    def _by_old_home(self, ids: Iterable[str]) -> dict[int, list[str]]:
        return _grouped(ids, lambda id_: id_, self.manifest.shards)

    def _moving(self, ids: Iterable[str]) -> dict[int, list[str]]:
        """The new shard's ids, while documents move there."""
        last = self.manifest.shards
        found = [id_ for id_ in ids if self.manifest.growing and shard_of(id_, last + 1) == last]
        return {last: found} if found else {}

    def search_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `FastLaneIndex.search_batch_detailed`; each result is a `ClusterResult`.

        Raises:
            ShardUnavailableError: no copy of a shard answers, and the cluster was not opened with `partial=True`.
        """
        told = SearchOptions.of(k=k, **options)
        asked = check_queries(queries)
        with search_span(told, len(asked)) as span:
            encoded, words = self._encoded(asked, told, texts)
            span.encoded()
            found = self._run(self._searched(encoded, words, told))
            span.found(found)
        return self._told(found, asked, told)

    async def asearch_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch_detailed`."""
        told = SearchOptions.of(k=k, **options)
        asked = check_queries(queries)
        with search_span(told, len(asked)) as span:
            encoded, words = await asyncio.to_thread(self._encoded, asked, told, texts)
            span.encoded()
            found = await self._searched(encoded, words, told)
            span.found(found)
        return self._told(found, asked, told)

    async def asearch(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """As `search`."""
        return (await self.asearch_batch_detailed([query], k, **options))[0].hits

    async def asearch_batch(
        self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchKeywords]
    ) -> list[list[Hit]]:
        """As `search_batch`."""
        return [one.hits for one in await self.asearch_batch_detailed(queries, k, **options)]

    def _encoded(
        self, queries: list[str] | list[EncodedQuery], told: SearchOptions, texts: Sequence[str] | None
    ) -> tuple[list[EncodedQuery], list[str] | None]:
        """The queries as shards take them, and their texts where words count."""
        words = query_texts(queries, texts, told)
        if told.lane == "words":
            return [PlainQuery.without_tokens() for _ in queries], words
        return encoded_queries(lambda: self.model, queries, self.dim), words

    async def _searched(
        self, queries: Sequence[EncodedQuery], words: list[str] | None, told: SearchOptions
    ) -> list[ClusterResult]:
        if not queries:
            return []
        policy = told.policy or self._policy
        keywords = {one.name: getattr(told, one.name) for one in fields(told)} | {"policy": policy, "texts": words}
        keywords["filter"] = _sendable(told.filter)
        missing: set[int] = set()
        if words is not None:
            counted = self._seen(await self._shards.ask("word_statistics", words), missing)
            keywords["whole"] = sum(counted.values(), WordStatistics())
        asked = words if told.lane == "words" and words is not None else list(queries)
        extra = 0
        while True:  # documents that move are in two shards, whose other hits must not fall out for it
            keywords["k"] = told.k + extra
            answers = self._seen(await self._shards.ask("search", asked, **keywords), missing)
            per_query = [{shard: found[n] for shard, found in answers.items()} for n in range(len(queries))]
            twice = max(map(doubled, per_query))
            if twice <= extra:
                break
            extra = 2 * twice
        if told.hybrid and told.lane != "words":
            hits = [await self._fused(one, told, policy, missing) for one in per_query]
        else:
            hits = [best_hits(one, told.k) for one in per_query]
        return [
            merged(one, own, query, sorted(missing)) for one, own, query in zip(per_query, hits, queries, strict=True)
        ]

    async def _fused(
        self, results: dict[int, SearchResult], told: SearchOptions, policy: SearchPolicy, missing: set[int]
    ) -> list[Hit]:
        """The best of a hybrid search. Candidates that were deleted since they were found make room for the next."""
        ranking = ranked(results, told, policy)
        documents: dict[str, Document] = {}
        gone: set[str] = set()
        while True:
            wanted = [id_ for id_ in ranking.ids if id_ not in gone][: told.k]
            if not (lacking := [id_ for id_ in wanted if id_ not in documents]):
                return ranking.hits(documents[id_] for id_ in wanted)
            found = self._seen(await self._shards.current(partial(self._got, lacking)), missing)
            documents |= {one.id: one for _, some in sorted(found.items()) for one in some}
            gone |= set(lacking) - set(documents)

    def _seen(self, answers: Answers, missing: set[int]) -> dict[int, Any]:
        """The answers that there are. Shards without one are noted, or raised.

        Raises:
            ShardUnavailableError: a shard is away, and partial results were not asked for.
        """
        if not self._partial:
            return self._whole(answers)
        missing |= set(answers) - set(present(answers))
        return present(answers)

    @staticmethod
    def _whole(answers: Answers) -> dict[int, Any]:
        for one in answers.values():
            if isinstance(one, ShardUnavailableError):
                raise one
        return answers

    def _told(
        self, results: Sequence[ClusterResult], queries: Sequence[str] | Sequence[EncodedQuery], told: SearchOptions
    ) -> list[SearchResult]:
        """The results, with what their hits explain themselves by; and warnings, at the line that called."""
        warn_of_hints(results)
        if missing := sorted({shard for one in results for shard in one.missing}):
            warn_caller(
                f"the answer is partial: the documents of shard {', '.join(map(str, missing))} of "
                f"{self.manifest.shards} were not searched"
            )
        give_evidence(lambda: self.model, queries, results, told, self._policy)
        return list(results)

    def explain(
        self, query: str, hit: Hit | str, *, route_k: RouteK | None = None, weighted: bool = True
    ) -> Explanation:
        """As `FastLaneIndex.explain`."""
        return explained(self.model, self.get, query, hit, route_k, self._policy, weighted=weighted)

    def get(self, ids: Iterable[str]) -> list[Document]:
        """As `FastLaneIndex.get`."""
        return self._run(self._get(check_ids(ids)))

    async def aget(self, ids: Iterable[str]) -> list[Document]:
        """As `get`."""
        return await self._get(check_ids(ids))

    async def _get(self, ids: list[str]) -> list[Document]:
        answers = self._whole(await self._shards.current(partial(self._got, ids)))
        found = {one.id: one for _, some in sorted(answers.items()) for one in some}
        return [found[id_] for id_ in ids if id_ in found]

    async def _got(self, ids: Sequence[str]) -> Answers:
        """What the shards that may have them give, by shard; a new shard is asked last."""
        found = await self._shards.ask_some("get", {n: (some,) for n, some in self._by_old_home(ids).items()})
        return found | await self._shards.ask_some("get", {n: (some,) for n, some in self._moving(ids).items()})

    def find(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """As `FastLaneIndex.find`, in the order of shards, and of first addition in each."""
        return self._run(self._find(filter, limit, offset))

    async def afind(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """As `find`."""
        return await self._find(filter, limit, offset)

    async def _find(self, filter: Filter | None, limit: int | None, offset: int) -> list[Document]:
        filter = _sendable(filter)
        first = check_count(offset, "offset")
        last = None if limit is None else first + check_count(limit, "limit")
        answers = self._whole(await self._shards.ask("find", filter, last))
        found = {one.id: one for _, some in sorted(answers.items()) for one in some}
        return list(found.values())[first:last]

    def ids(self, filter: Filter | None = None) -> list[str]:
        """As `FastLaneIndex.ids`, in the order of `find`."""
        return self._run(self._ids(filter))

    async def aids(self, filter: Filter | None = None) -> list[str]:
        """As `ids`."""
        return await self._ids(filter)

    async def _ids(self, filter: Filter | None) -> list[str]:
        filter = _sendable(filter)
        answers = self._whole(await self._shards.ask("ids", filter))
        return list(dict.fromkeys(id_ for _, some in sorted(answers.items()) for id_ in some))

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """As `FastLaneIndex.delete`. After a call that Ray had to repeat the number may be too small."""
        if ids is None and filter is None:
            raise InvalidInputError("delete() needs ids or a filter; filter={} deletes every document")
        wanted = None if ids is None else check_ids(ids)
        filter = _sendable(filter)
        return self._run(self._shards.current(partial(self._delete, wanted, filter)))

    async def _delete(self, ids: list[str] | None, filter: Filter | None) -> int:
        """Old shards first: what moves while they delete is then where the new one deletes it."""
        growing, last = self.manifest.growing, self.manifest.shards
        if ids is None:
            old: dict[int, tuple[Any, ...]] = dict.fromkeys(range(last), (None,))
            new: dict[int, tuple[Any, ...]] = {last: (None,)} if growing else {}
        else:
            old = {shard: (some,) for shard, some in self._by_old_home(ids).items()}
            new = {shard: (some,) for shard, some in self._moving(ids).items()}
        deleted = await self._shards.tell("delete", old, filter=filter)
        deleted |= await self._shards.tell("delete", new, filter=filter)
        return sum(deleted.values())

    def update_metadata(self, ids: Iterable[str], metadatas: Iterable[Mapping[str, Any] | None]) -> int:
        """As `FastLaneIndex.update_metadata`."""
        new = {id_: metadata_from_json(metadata) for id_, metadata in new_metadata(ids, metadatas).items()}
        return self._run(self._shards.current(partial(self._set_metadata, new)))

    async def _set_metadata(self, new: Mapping[str, Any]) -> int:
        def asked(ids: Iterable[str]) -> tuple[list[str], list[Any]]:
            return list(ids), [new[id_] for id_ in ids]

        old = {shard: asked(some) for shard, some in self._by_old_home(new).items()}
        moved = {shard: asked(some) for shard, some in self._moving(new).items()}
        changed = await self._shards.tell("update_metadata", old)
        changed |= await self._shards.tell("update_metadata", moved)
        return sum(changed.values())

    def add_shard(self) -> int:
        """Add a shard and move to it the documents that belong there, 1/(shards + 1) of all.

        Searches and writes go on meanwhile: no document is lost, and none returned twice. What was interrupted goes on
        where it stopped when this is called again. Words are counted twice for at most 64 documents at a time while
        they move. Documents in code are decoded for it, and in half precision in the new shard until it trains its own
        codec.

        Returns:
            The number of the new shard.

        Raises:
            ShardUnavailableError: an actor does not answer; all must, because all must learn of the new shard.
        """
        return self._run(self._grow())

    async def _grow(self) -> int:
        shards = self._shards
        manifest = shards.manifest = Manifest.read(self._path)
        new = manifest.shards
        self._whole(await shards.start(_START_SECONDS, make=[new]))
        if not manifest.growing:
            await self._announce(replace(manifest, growing=True, epoch=manifest.epoch + 1))
        to = shards.copies(new)[0]
        while leaving := present(await shards.ask_some("leaving", dict.fromkeys(range(new), (new + 1,)))):
            if not any(leaving.values()):
                break
            for shard, ids in leaving.items():
                for first in range(0, len(ids), _MOVED):
                    await shards.tell("move", {shard: (ids[first : first + _MOVED], to)})
        manifest = shards.manifest
        await self._announce(replace(manifest, shards=new + 1, growing=False, epoch=manifest.epoch + 1))
        return new

    async def _announce(self, manifest: Manifest) -> None:
        """Write a manifest, and have every actor read it, so that none answers who does not know it."""
        manifest.write(self._path)
        self._shards.manifest = manifest
        await self._shards.inform()

    def optimize(self) -> None:
        """As `FastLaneIndex.optimize`, on all shards."""
        self._run(self._everywhere("optimize"))

    def compact(self, *, retrain: bool = False) -> None:
        """As `FastLaneIndex.compact`, on all shards."""
        self._run(self._everywhere("compact", retrain=check_flag(retrain, "retrain")))

    async def _everywhere(self, name: str, **options: Any) -> dict[int, Any]:
        async def told() -> dict[int, Any]:
            return await self._shards.tell(name, dict.fromkeys(range(self.manifest.all_shards), ()), **options)

        return await self._shards.current(told)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, codec: str | None = None) -> None:
        """Copy the cluster to a directory that `open` opens; each shard at one commit of its own.

        Args:
            path: a new or empty directory that every machine sees.
            overwrite: refused where it is true and there is something, because a cluster is no single file.
            codec: as of `FastLaneIndex.save`.

        Raises:
            IndexExistsError: `path` holds files.
            FastLaneError: a shard is being added; call `add_shard()` to finish that first.
        """
        directory = index_path(path).resolve()
        if directory == self._path:
            return
        if directory.exists() and any(directory.iterdir()):
            raise IndexExistsError(f"{directory} holds files; give a new path, or delete them first")
        manifest = self._shards.manifest = Manifest.read(self._path)
        if manifest.growing:
            raise FastLaneError(f"a shard is being added to {self._path}: finish it with add_shard(), then save")
        copy = replace(manifest, id=uuid.uuid4().hex[:12], epoch=0, local=None)
        (directory / "shards").mkdir(parents=True)
        self._empty.save(directory / EMPTY, codec=codec)
        asked = {shard: (str(copy.directory(directory, shard)),) for shard in range(manifest.shards)}
        self._run(self._shards.tell("save", asked, codec=codec))
        copy.write(directory)

    def verify(self) -> list[str]:
        """As `FastLaneIndex.verify`, on all shards; and which documents are not where they belong."""
        answers = self._whole(self._run(self._shards.ask("verify")))
        found = [f"shard {shard}: {problem}" for shard, some in answers.items() for problem in some]
        if not self.manifest.growing:
            away = self._whole(self._run(self._shards.ask("leaving", self.manifest.shards)))
            found += [
                f"shard {shard}: {len(ids)} documents belong to other shards, such as {ids[0]!r}; delete and add them"
                for shard, ids in away.items()
                if ids
            ]
        return found

    def stats(self) -> IndexStats:
        """As `FastLaneIndex.stats`, summed over the shards; `upkeep` is that of the first shard that is not done."""
        found = self._whole(self._run(self._shards.ask("stats")))
        total = {
            name: sum(getattr(one, name) for one in found.values())
            for name in ("documents", "tokens", "segments", "pending", "dead", "bytes", "commits")
        }
        upkeep = next((one.upkeep for one in found.values() if one.upkeep != "done"), "done")
        return replace(self._empty.stats(), path=self._path, upkeep=upkeep, **total)

    def shard_stats(self) -> dict[int, IndexStats]:
        """The statistics of each shard; with `partial=True` those of shards that are away are left out."""
        return self._seen(self._run(self._shards.ask("stats")), set())

    def status(self, seconds: float = 5.0) -> dict[int, list[str]]:
        """Where the actors of each shard run, the one that writes first: an address, or why there is no answer."""
        return self._run(self._shards.status(seconds))

    def close(self) -> None:
        """Let go of the cluster, whose actors go on. `stop` ends them."""
        self._thread.stop()
        self._empty.close()

    def stop(self) -> None:
        """End the actors of the cluster, for everybody. What is stored stays; `open` starts them again."""
        self._run(self._shards.stop())
        self.close()

    def _run(self, call: Awaitable[T]) -> T:
        return self._thread.run(call)

    def __len__(self) -> int:
        if self.manifest.growing:  # documents that move are in two shards
            return len(self.ids())
        return sum(self._whole(self._run(self._shards.ask("__len__"))).values())

    def __contains__(self, id_: object) -> bool:
        return is_text(id_) and bool(self.get([id_]))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (str(self._path), self._given)

    def __repr__(self) -> str:
        return f"ClusterIndex({str(self._path)!r}, {self.manifest.shards} shards)"


def _check_asking(timeout: float, write_timeout: float, partial: bool, policy: SearchPolicy | None) -> None:
    """Refuse options of a cluster's object that cannot be.

    Raises:
        InvalidInputError: one is not what it must be.
    """
    check_seconds(timeout)
    check_seconds(write_timeout, "write_timeout")
    check_flag(partial, "partial")
    check_policy(policy)


def _sendable(filter: Filter | None) -> Filter | None:
    """The filter as shards get it. What is wrong with it is told here: Ray says so in many lines.

    Raises:
        FilterError: a part of it is not valid.
        InvalidInputError: it is, or holds, a function that cannot be pickled.
    """
    if filter is None:
        return None
    compile_filter(filter)
    sent = (
        replace(filter, filters=tuple(map(_listed, filter.filters))) if isinstance(filter, AllOf) else _listed(filter)
    )
    try:
        cloudpickle.dumps(sent)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise InvalidInputError(
            f"the filter {filter!r} cannot be sent to the shards ({error}); write it in the filter language, as a dict"
        ) from error
    return sent


def _listed(value: Any) -> Any:
    """A filter, or a part of one, in which the keys or values of a dict are a list: they cannot be pickled."""
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    if isinstance(value, list | tuple | KeysView | ValuesView):
        return [_listed(one) for one in value]
    return value


def _reopened(path: str, options: dict[str, Any]) -> ClusterIndex:
    """What unpickling calls. Its actors are looked up when it is first used: Ray holds a lock while it unpickles."""
    return ClusterIndex(path, **options)


def _grouped(items: Iterable[T], id_of: Callable[[T], str], shards: int) -> dict[int, list[T]]:
    groups: dict[int, list[T]] = {}
    for one in items:
        groups.setdefault(shard_of(id_of(one), shards), []).append(one)
    return groups


class _LoopThread:
    """An event loop in a thread, for calls from code that has none."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, call: Awaitable[T]) -> T:
        """What a coroutine returns.

        Raises:
            IndexClosedError: the thread was stopped.
        """
        with self._lock:
            if self._stopped:
                cast(Any, call).close()
                raise IndexClosedError("the cluster is closed; open it again with ClusterIndex.open")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="fastlane-cluster", daemon=True).start()
            work = asyncio.run_coroutine_threadsafe(_awaited(call), self._loop)
        try:
            return work.result()
        except BaseException:  # Ctrl-C too ends what was asked
            work.cancel()
            raise

    def stop(self) -> None:
        """End the thread; calls after this raise."""
        with self._lock:
            self._stopped = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None


async def _awaited(call: Awaitable[T]) -> T:
    return await call
