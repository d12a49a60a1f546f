"""RemoteIndex: an index on a server, with the face of `FastLaneIndex`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, cast
from urllib.parse import quote

from fastlane_rag.errors import FastLaneError, InvalidInputError
from fastlane_rag.explain import Explanation
from fastlane_rag.index.searches import Searches
from fastlane_rag.lengths import check_list, check_texts, is_text
from fastlane_rag.remote.encoded import AskedQuery, matrix, query_message
from fastlane_rag.remote.filters import filter_message
from fastlane_rag.remote.images import sending_images
from fastlane_rag.remote.messages import (
    MOST_LISTED,
    Deleted,
    DocumentList,
    EncodedSearchRequest,
    Explained,
    ExplainRequest,
    Filtered,
    FindDocuments,
    Ids,
    NewDocument,
    Problems,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchDetail,
    SearchRequest,
    SearchResponse,
    SelectDocuments,
    StatsMessage,
    Updated,
    UpdateMetadata,
    UpsertRequest,
    options_message,
)
from fastlane_rag.remote.model import RemoteModel
from fastlane_rag.remote.transport import Call, Transport
from fastlane_rag.search.options import SearchKeywords, SearchOptions, check_count, check_flag, check_seconds
from fastlane_rag.search.result import Hit, SearchResult, remember, warn_of_hints
from fastlane_rag.search.tracing import search_span
from fastlane_rag.storage.metadata import metadata_from_json, plain_metadata
from fastlane_rag.types import Document, IndexStats, Ingested, Lane, RouteK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastlane_rag.search.query import EncodedQuery
    from fastlane_rag.storage.filters import Filter

__all__ = ["RemoteIndex"]

_TELL = Call("GET", "", StatsMessage)
_OF_DETAIL = tuple(one.name for one in fields(SearchResult) if one.name in SearchDetail.model_fields)


class RemoteIndex(Searches):
    """An index that `fastlane serve` serves, used as if it were here: the methods are those of `FastLaneIndex`.

    Searches, `add`, `add_images`, `delete`, `get`, `find` and `ids` also come as coroutines, named with an a in front,
    which do not block the event loop. Requests that a busy or restarting server refuses are repeated. Errors are of
    the same classes as those of an index here; `RemoteError` says that the server cannot be reached or refuses the key.
    Safe to share between threads and event loops.

    Filters must be dicts, whose values may be dates, because functions cannot be sent.

    Args:
        url: of the server, such as "http://localhost:8000". A user name and a password in it are for a proxy in front:
            they are sent by HTTP's basic scheme, and never shown.
        api_key: a key of the server; None takes $FASTLANE_API_KEY, and none where that is not set.
        name: of the index, where the server has several.
        timeout: seconds that a search may take.
        write_timeout: seconds that a write may take.
        retries: how often a refused request is repeated, with growing pauses.

    Raises:
        InvalidInputError: `url` is no address, or another argument is not what it must be.
        MissingExtraError: httpx is not installed.

    Example:
        ```python
        with RemoteIndex("http://localhost:8000") as index:
            hits = index.search("what does a cat do?", k=5)
        ```
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        name: str | None = None,
        timeout: float = 60.0,
        write_timeout: float = 660.0,
        retries: int = 4,
    ) -> None:
        if not isinstance(url, str):
            raise InvalidInputError(f"url must be the address of a server, like 'http://localhost:8000', not {url!r}")
        if not is_text(name) and name is not None:
            raise InvalidInputError(f"name must be that of an index on the server, a text, or None, not {name!r}")
        seconds = (check_seconds(timeout), check_seconds(write_timeout, "write_timeout"))
        key = api_key or os.environ.get("FASTLANE_API_KEY")
        base = f"{url.rstrip('/')}/v1/indexes/{quote(name or '-', safe='')}"
        self._given = (url, api_key, name, timeout, write_timeout, retries)
        self._transport = Transport(base, key, *seconds, check_count(retries, "retries"))
        self._model = RemoteModel(self._transport)

    @property
    def url(self) -> str:
        """The address of the index on its server."""
        return self._transport.url

    @property
    def model(self) -> RemoteModel:
        """What encodes for this index, on the server."""
        return self._model

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self._model.dim

    @property
    def read_only(self) -> bool:
        """Whether the server refuses writes."""
        return self._told().read_only

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add`; the server chooses how many texts it encodes at once, and shows no progress."""
        final, call = _adding(texts, ids, metadatas)
        if final:
            self._transport.ask(call)
        return final

    async def aadd(
        self,
        texts: Iterable[str],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """As `add`."""
        final, call = _adding(texts, ids, metadatas)
        if final:
            await self._transport.aask(call)
        return final

    def add_embeddings(
        self,
        rows: Iterable[Any],
        ids: Iterable[str | None] | None,
        texts: Iterable[str] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add_embeddings`."""
        from fastlane_rag.index.outside import checked_rows

        given = [checked_rows(one, self.dim, f"rows[{i}]") for i, one in enumerate(check_list("rows", rows))]
        final, call = _adding([""] * len(given) if texts is None else texts, ids, metadatas, given)
        if final:
            self._transport.ask(call)
        return final

    def add_images(
        self,
        images: Iterable[Any],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        texts: Iterable[str] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """As `FastLaneIndex.add_images`, in one request; the server chooses how many images it encodes at once.

        Files are read here and sent, so that the stored images are `data:` texts. Pillow is needed on the server, and
        here for its own images alone.

        Raises:
            InvalidInputError: the server's model takes no images, an image cannot be read there or has too many pixels,
                lengths differ, or the images have more bytes than the server takes at once.
        """
        final, call = sending_images(self._told(), images, ids, metadatas, texts)
        if final:
            self._transport.ask(call)
        return final

    async def aadd_images(
        self,
        images: Iterable[Any],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        texts: Iterable[str] | None = None,
    ) -> list[str]:
        """As `add_images`."""
        told = await self._transport.aask(_TELL)
        final, call = await asyncio.to_thread(sending_images, told, images, ids, metadatas, texts)
        if final:
            await self._transport.aask(call)
        return final

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        batch_size: int | None = None,
        total: int | None = None,
        show_progress: bool | None = None,
    ) -> Ingested:
        """As `FastLaneIndex.ingest`, a few hundred documents a request."""
        from fastlane_rag.index.ingestion import checked_chunks
        from fastlane_rag.index.progress import documents_bar

        done = Ingested(0, 0, 0, 0)
        with documents_bar("Indexing", total, visible=bool(show_progress)) as shown:
            for chunk in checked_chunks(documents):
                done += self._transport.ask(
                    Call("POST", "/documents/ingest", Ingested, b"\n".join(map(_line, chunk)), writes=True)
                )
                shown(len(chunk))
        return done

    def search_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `FastLaneIndex.search_batch_detailed`; the milliseconds are the server's, encoding included.

        What `routed` has besides the tokens is encoded once more, on the server, when it is asked for.
        """
        asked = _asked(queries, k, texts, options)
        with search_span(asked.told, len(asked.queries)) as span:
            results = self._results(asked, self._transport.ask(asked.call))
            span.found(results)
        return results

    async def asearch(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """As `search`."""
        return (await self.asearch_batch([query], k, **options))[0]

    async def asearch_embeddings(
        self, rows: Any, k: int = 10, *, text: str | None = None, **options: Unpack[SearchKeywords]
    ) -> list[Hit]:
        """As `search_embeddings`."""
        queries, texts = await asyncio.to_thread(self._plain, rows, text)
        return (await self.asearch_batch_detailed(queries, k, texts=texts, **options))[0].hits

    async def asearch_batch(
        self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchKeywords]
    ) -> list[list[Hit]]:
        """As `search_batch`."""
        return [result.hits for result in await self.asearch_batch_detailed(queries, k, **options)]

    async def asearch_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """As `search_detailed`."""
        return (await self.asearch_batch_detailed([query], k, **options))[0]

    async def asearch_batch_detailed(
        self,
        queries: Iterable[str] | Iterable[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch_detailed`."""
        asked = _asked(queries, k, texts, options)
        with search_span(asked.told, len(asked.queries)) as span:
            results = self._results(asked, await self._transport.aask(asked.call))
            span.found(results)
        return results

    def explain(
        self, query: str, hit: Hit | str, *, route_k: RouteK | None = None, weighted: bool = True
    ) -> Explanation:
        """As `FastLaneIndex.explain`."""
        from fastlane_rag.index.checks import check_explained

        query, told = check_explained(query, hit, route_k, weighted)
        of = {"id": hit} if isinstance(hit, str) else {"text": hit.text}
        asked = ExplainRequest(query=query, route_k=told.route_k, weighted=told.weighted, **of)
        found = self._transport.ask(Call("POST", "/explain", Explained, asked))
        return Explanation(found.query, found.text, tuple(found.tokens))

    def get(self, ids: Iterable[str]) -> list[Document]:
        """As `FastLaneIndex.get`."""
        return [document for call in _fetching(ids) for document in self._transport.ask(call).documents]

    async def aget(self, ids: Iterable[str]) -> list[Document]:
        """As `get`."""
        return [document for call in _fetching(ids) for document in (await self._transport.aask(call)).documents]

    def find(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """As `FastLaneIndex.find`, a thousand documents a request; between requests others may write."""
        pages = _Pages(filter, limit, offset)
        while (call := pages.next_call()) is not None:
            pages.take(self._transport.ask(call))
        return pages.found

    async def afind(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """As `find`."""
        pages = _Pages(filter, limit, offset)
        while (call := pages.next_call()) is not None:
            pages.take(await self._transport.aask(call))
        return pages.found

    def ids(self, filter: Filter | None = None) -> list[str]:
        """As `FastLaneIndex.ids`."""
        return self._transport.ask(_listing(filter)).ids

    async def aids(self, filter: Filter | None = None) -> list[str]:
        """As `ids`."""
        return (await self._transport.aask(_listing(filter))).ids

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """As `FastLaneIndex.delete`. After a request that had to be repeated the number may be too small."""
        return self._transport.ask(_deleting(ids, filter)).deleted

    async def adelete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """As `delete`."""
        return (await self._transport.aask(_deleting(ids, filter))).deleted

    def update_metadata(self, ids: Iterable[str], metadatas: Iterable[Mapping[str, Any] | None]) -> int:
        """As `FastLaneIndex.update_metadata`."""
        from fastlane_rag.index.checks import new_metadata

        new = new_metadata(ids, metadatas)
        asked = UpdateMetadata(ids=list(new), metadatas=[metadata_from_json(one) for one in new.values()])
        return self._transport.ask(Call("POST", "/documents/metadata", Updated, asked, writes=True)).updated

    def optimize(self) -> None:
        """As `FastLaneIndex.optimize`."""
        self._transport.ask(Call("POST", "/optimize", type(None), writes=True))

    def compact(self, *, retrain: bool = False) -> None:
        """As `FastLaneIndex.compact`."""
        asked = {"retrain": check_flag(retrain, "retrain")}
        self._transport.ask(Call("POST", "/compact", type(None), asked, writes=True))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, codec: str | None = None) -> NoReturn:
        """Refused, because an index on a server is kept there.

        Raises:
            FastLaneError: always; the message says how to save it.
        """
        from fastlane_rag.storage.folder import index_path

        raise FastLaneError(
            f"{self.url} is kept by its server, and needs no saving; to copy it there: "
            f"FastLaneIndex.open(directory, read_only=True).save({str(index_path(path))!r})"
        )

    def verify(self) -> list[str]:
        """As `FastLaneIndex.verify`."""
        return self._transport.ask(Call("POST", "/verify", Problems, writes=True)).problems

    def stats(self) -> IndexStats:
        """As `FastLaneIndex.stats`; the path is the server's own business, and None."""
        return self._told().stats

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those of `close`."""
        await self._transport.aclose()

    def _told(self) -> StatsMessage:
        return self._transport.ask(_TELL)

    def _results(self, asked: _Asked, answer: SearchResponse | SearchBatchResponse) -> list[SearchResult]:
        answers = [answer] if isinstance(answer, SearchResponse) else answer.results
        queries = cast("list[str | EncodedQuery]", asked.queries)
        results = [self._result(query, asked.told, one) for query, one in zip(queries, answers, strict=True)]
        warn_of_hints(results)
        return results

    def _result(self, query: str | EncodedQuery, told: SearchOptions, answer: SearchResponse) -> SearchResult:
        detail = answer.detail
        if detail is None:
            raise FastLaneError(f"{self.url} told no detail of the search; is the server older than this client?")
        hits = [one.hit() for one in answer.hits]
        routed: Any = query
        if isinstance(query, str) or told.lane == "words":
            routed = AskedQuery(detail.tokens, partial(self._encoded, query, told.lane))
            if isinstance(query, str) and told.lane != "words":
                route_k = told.route_k or (told.policy.route_k if told.policy is not None else None)
                explain = partial(self._explained, query, route_k, told.weighted)
                for hit in hits:
                    remember(hit, explain)
        said = {name: getattr(detail, name) for name in _OF_DETAIL}
        return SearchResult(hits=hits, routed=routed, hint=answer.hint, **said)

    def _encoded(self, query: str | EncodedQuery, lane: Lane | None) -> EncodedQuery:
        if isinstance(query, str) and lane != "words":
            return self._model.encode_routed([query])[0]
        from fastlane_rag.index.outside import PlainQuery

        return PlainQuery.without_tokens()

    def _explained(self, query: str, route_k: RouteK | None, weighted: bool, text: str) -> Explanation:
        return self.explain(query, Hit("", 0.0, text), route_k=route_k, weighted=weighted)

    def __len__(self) -> int:
        return self.stats().documents

    def __contains__(self, id_: object) -> bool:
        return is_text(id_) and bool(self.get([id_]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, self._given

    def __repr__(self) -> str:
        return f"RemoteIndex({self.url!r})"


def _again(*given: Any) -> RemoteIndex:
    """What unpickling calls."""
    url, api_key, name, timeout, write_timeout, retries = given
    return RemoteIndex(url, api_key, name=name, timeout=timeout, write_timeout=write_timeout, retries=retries)


# The checks of an index load much, so they are imported where they are first used.


def _adding(
    texts: Any, ids: Any, metadatas: Any, rows: Sequence[NDArray[np.float32]] | None = None
) -> tuple[list[str], Call[Ids]]:
    """The id of each text, given or made here, so that the request may be repeated; and the request."""
    from fastlane_rag.index.checks import prepare

    final, entries = prepare(texts, ids, metadatas)
    documents = [
        NewDocument(id=id_, text=text, metadata=metadata_from_json(metadata)) for id_, text, metadata in entries
    ]
    if rows is not None:
        if len(rows) != len(final):
            raise InvalidInputError(f"{len(rows)} rows but {len(final)} texts")
        latest = dict(zip(final, rows, strict=True))
        for document in documents:
            document.embeddings = matrix(latest[cast(str, document.id)], packed=True)
    return final, Call("POST", "/documents", Ids, UpsertRequest(documents=documents), writes=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that searches."""

    told: SearchOptions
    queries: list[str] | list[EncodedQuery]
    call: Call[SearchResponse | SearchBatchResponse]


def _asked(
    queries: Iterable[str] | Iterable[EncodedQuery], k: int, texts: Sequence[str] | None, options: SearchKeywords
) -> _Asked:
    from fastlane_rag.index.checks import check_queries, query_texts

    told, listed = SearchOptions.of(k=k, **options), check_queries(queries)
    words = query_texts(listed, texts, told)
    message = {"detail": True, **options_message(told)}
    if listed and all(hasattr(query, "embeddings") for query in listed):
        encoded = [query_message(query.to_cpu()) for query in cast("list[EncodedQuery]", listed)]
        body = EncodedSearchRequest(queries=encoded, texts=words, **message)
        return _Asked(told, listed, Call("POST", "/search/encoded", SearchBatchResponse, body))
    asked = check_texts(cast("list[str]", listed), "queries")
    if len(asked) == 1 and words in (None, asked):  # the server answers single queries of many clients together
        one = SearchRequest(query=asked[0], **message)
        return _Asked(told, asked, Call("POST", "/search", SearchResponse, one))
    batch = SearchBatchRequest(queries=asked, texts=words, **message)
    return _Asked(told, asked, Call("POST", "/search/batch", SearchBatchResponse, batch))


class _Pages:
    """The documents that `find` collects, a request at a time."""

    def __init__(self, filter: Filter | None, limit: int | None, offset: int) -> None:
        self.found: list[Document] = []
        self._filter = filter_message(filter)
        self._offset = check_count(offset, "offset")
        self._left = None if limit is None else check_count(limit, "limit")

    def next_call(self) -> Call[DocumentList] | None:
        """The next request; None after the last one."""
        size = MOST_LISTED if self._left is None else min(self._left, MOST_LISTED)
        if not size:
            return None
        asked = FindDocuments(filter=self._filter, limit=size, offset=self._offset + len(self.found))
        return Call("POST", "/documents/find", DocumentList, asked)

    def take(self, page: DocumentList) -> None:
        """Add what a request brought."""
        self.found += page.documents
        if self._left is not None:
            self._left -= len(page.documents)
        if not page.documents or self._offset + len(self.found) >= page.total:
            self._left = 0


def _fetching(ids: Iterable[str]) -> Iterator[Call[DocumentList]]:
    wanted = _ids(ids)
    for start in range(0, len(wanted), MOST_LISTED):
        yield Call("POST", "/documents/get", DocumentList, Ids(ids=wanted[start : start + MOST_LISTED]))


def _listing(filter: Filter | None) -> Call[Ids]:
    return Call("POST", "/documents/ids", Ids, Filtered(filter=filter_message(filter)))


def _deleting(ids: Iterable[str] | None, filter: Filter | None) -> Call[Deleted]:
    asked = SelectDocuments(ids=None if ids is None else _ids(ids), filter=filter_message(filter))
    return Call("POST", "/documents/delete", Deleted, asked, writes=True)


def _ids(ids: Iterable[str]) -> list[str]:
    from fastlane_rag.index.checks import check_ids

    return check_ids(ids)


def _line(document: Document) -> bytes:
    """A document as a line; its keys of metadata stand apart, so that none is taken for a title."""
    record = {"_id": document.id, "text": document.text, "metadata": plain_metadata(document.metadata or {})}
    return json.dumps(record, ensure_ascii=False).encode()
