"""RemoteIndex: an index on a server, with the face of `FastLaneIndex`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, cast
from urllib.parse import quote

from fastlane_rag.errors import FastLaneError
from fastlane_rag.explain import Explanation
from fastlane_rag.remote.encoded import query_message, routed_query
from fastlane_rag.remote.messages import (
    Deleted,
    DocumentList,
    EncodedSearchRequest,
    Explained,
    ExplainRequest,
    Filtered,
    Ids,
    NewDocument,
    Problems,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchRequest,
    SearchResponse,
    SelectDocuments,
    StatsMessage,
    Updated,
    UpdateMetadata,
    UpsertRequest,
    filter_message,
    options_message,
)
from fastlane_rag.remote.model import RemoteModel
from fastlane_rag.remote.transport import Call, Transport
from fastlane_rag.search.options import SearchKeywords, SearchOptions
from fastlane_rag.search.result import Hit, SearchResult, remember
from fastlane_rag.storage.metadata import metadata_from_json, plain_metadata
from fastlane_rag.types import Document, IndexStats, Ingested, RouteK

if TYPE_CHECKING:
    from fastlane_rag.search.query import EncodedQuery
    from fastlane_rag.storage.filters import Filter

__all__ = ["RemoteIndex"]

_FETCHED = 1000  # documents a request
_OF_RESULT = tuple(one.name for one in fields(SearchResult) if one.name not in ("hits", "routed"))


class RemoteIndex:
    """An index that `fastlane serve` serves, used as if it were here: the methods are those of `FastLaneIndex`.

    Each of them that searches or stores also comes as a coroutine, named with an a in front, which does not block the
    event loop. Requests that a busy or restarting server refuses are repeated. Errors are of the same classes as those
    of an index here; `RemoteError` says that the server cannot be reached or refuses the key. Safe to share between
    threads and event loops.

    Filters must be dicts, because functions cannot be sent.

    Args:
        url: of the server, such as "http://localhost:8000".
        api_key: a key of the server; None takes $FASTLANE_API_KEY, and none where that is not set.
        name: of the index, where the server has several.
        timeout: seconds that a search may take.
        write_timeout: seconds that a write may take.
        retries: how often a refused request is repeated, with growing pauses.

    Raises:
        InvalidInputError: `url` is no address.
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
        key = api_key or os.environ.get("FASTLANE_API_KEY")
        base = f"{url.rstrip('/')}/v1/indexes/{quote(name or '-', safe='')}"
        self._given = (url, api_key, name, timeout, write_timeout, retries)
        self._transport = Transport(base, key, timeout, write_timeout, retries)
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
                new = self._transport.ask(
                    Call("POST", "/documents/ingest", Ingested, b"\n".join(map(_line, chunk)), writes=True)
                )
                both = zip(asdict(done).values(), asdict(new).values(), strict=True)
                done = Ingested(*(before + now for before, now in both))
                shown(len(chunk))
        return done

    def search(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """As `FastLaneIndex.search`."""
        return self.search_batch([query], k, **options)[0]

    def search_batch(self, queries: Sequence[str], k: int = 10, **options: Unpack[SearchKeywords]) -> list[list[Hit]]:
        """As `FastLaneIndex.search_batch`."""
        told = SearchOptions.of(k=k, **options)
        answers = _each(self._transport.ask(_searching(queries, told)))
        return [self._hits(query, told, one) for query, one in zip(queries, answers, strict=True)]

    def search_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """As `FastLaneIndex.search_detailed`."""
        return self.search_batch_detailed([query], k, **options)[0]

    def search_batch_detailed(
        self,
        queries: Sequence[str] | Sequence[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `FastLaneIndex.search_batch_detailed`; the milliseconds are the server's, encoding included."""
        told = SearchOptions.of(k=k, **options)
        answer = self._transport.ask(_searching(queries, told, texts=texts, detail=True))
        return self._results(queries, told, answer)

    async def asearch(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> list[Hit]:
        """As `search`."""
        return (await self.asearch_batch([query], k, **options))[0]

    async def asearch_batch(
        self, queries: Sequence[str], k: int = 10, **options: Unpack[SearchKeywords]
    ) -> list[list[Hit]]:
        """As `search_batch`."""
        told = SearchOptions.of(k=k, **options)
        answers = _each(await self._transport.aask(_searching(queries, told)))
        return [self._hits(query, told, one) for query, one in zip(queries, answers, strict=True)]

    async def asearch_detailed(self, query: str, k: int = 10, **options: Unpack[SearchKeywords]) -> SearchResult:
        """As `search_detailed`."""
        return (await self.asearch_batch_detailed([query], k, **options))[0]

    async def asearch_batch_detailed(
        self,
        queries: Sequence[str] | Sequence[EncodedQuery],
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        **options: Unpack[SearchKeywords],
    ) -> list[SearchResult]:
        """As `search_batch_detailed`."""
        told = SearchOptions.of(k=k, **options)
        answer = await self._transport.aask(_searching(queries, told, texts=texts, detail=True))
        return self._results(queries, told, answer)

    def explain(self, query: str, hit: Hit | str, *, route_k: RouteK | None = None) -> Explanation:
        """As `FastLaneIndex.explain`."""
        asked = {"id": hit} if isinstance(hit, str) else {"text": hit.text}
        call = Call("POST", "/explain", Explained, ExplainRequest(query=query, route_k=route_k, **asked))
        found = self._transport.ask(call)
        return Explanation(found.query, found.text, tuple(found.tokens))

    def get(self, ids: Iterable[str]) -> list[Document]:
        """As `FastLaneIndex.get`."""
        return [document for call in _fetching(ids) for document in self._transport.ask(call).documents]

    async def aget(self, ids: Iterable[str]) -> list[Document]:
        """As `get`."""
        return [document for call in _fetching(ids) for document in (await self._transport.aask(call)).documents]

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
        plain = [None if one is None else plain_metadata(one) for one in metadatas]
        asked = UpdateMetadata(ids=_ids(ids), metadatas=plain)
        return self._transport.ask(Call("POST", "/documents/metadata", Updated, asked, writes=True)).updated

    def compact(self, *, retrain: bool = False) -> None:
        """As `FastLaneIndex.compact`."""
        self._transport.ask(Call("POST", "/compact", type(None), {"retrain": retrain}, writes=True))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, codec: str | None = None) -> NoReturn:
        """Refused, because an index on a server is kept there.

        Raises:
            FastLaneError: always; the message says how to save it.
        """
        raise FastLaneError(
            f"{self.url} is kept by its server, and needs no saving; to copy it there: "
            f"FastLaneIndex.open(directory, read_only=True).save({os.fspath(path)!r})"
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
        return self._transport.ask(Call("GET", "", StatsMessage))

    def _hits(self, query: str | EncodedQuery, told: SearchOptions, answer: SearchResponse) -> list[Hit]:
        """The hits; those of a text can explain themselves."""
        if isinstance(query, str):
            route_k = told.route_k or (told.policy.route_k if told.policy is not None else None)
            explain: Callable[[str], Explanation] = partial(self._explained, query, route_k)
            for hit in answer.hits:
                remember(hit, explain)
        return answer.hits

    def _explained(self, query: str, route_k: RouteK | None, text: str) -> Explanation:
        return self.explain(query, Hit("", 0.0, text), route_k=route_k)

    def _results(
        self,
        queries: Sequence[str] | Sequence[EncodedQuery],
        told: SearchOptions,
        answer: SearchResponse | SearchBatchResponse,
    ) -> list[SearchResult]:
        asked = cast("Sequence[str | EncodedQuery]", queries)
        return [self._result(query, told, one) for query, one in zip(asked, _each(answer), strict=True)]

    def _result(self, query: str | EncodedQuery, told: SearchOptions, answer: SearchResponse) -> SearchResult:
        detail = answer.detail
        if detail is None or detail.query is None:
            raise FastLaneError(f"{self.url} told no detail of the search; is the server older than this client?")
        said = {name: getattr(detail, name) for name in _OF_RESULT}
        return SearchResult(hits=self._hits(query, told, answer), routed=routed_query(detail.query), **said)

    def __len__(self) -> int:
        return self.stats().documents

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self.get([id_]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __bool__(self) -> bool:
        # As of an index here: an empty one is still an index.
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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


def _adding(texts: Any, ids: Any, metadatas: Any) -> tuple[list[str], Call[Ids]]:
    """The id of each text, given or made here, so that the request may be repeated; and the request."""
    from fastlane_rag.index.checks import prepare

    final, entries = prepare(texts, ids, metadatas)
    documents = [
        NewDocument(id=id_, text=text, metadata=metadata_from_json(metadata)) for id_, text, metadata in entries
    ]
    return final, Call("POST", "/documents", Ids, UpsertRequest(documents=documents), writes=True)


def _searching(
    queries: Sequence[str] | Sequence[EncodedQuery],
    told: SearchOptions,
    *,
    texts: Sequence[str] | None = None,
    detail: bool = False,
) -> Call[SearchResponse | SearchBatchResponse]:
    from fastlane_rag.index.checks import check_texts

    asked = {"detail": detail, "embeddings": detail, **options_message(told)}
    if isinstance(queries, str) or not all(hasattr(query, "embeddings") for query in queries):
        words = check_texts(cast("Sequence[str]", queries), "queries")
        if len(words) == 1:  # the server answers single queries of many clients together
            return Call("POST", "/search", SearchResponse, SearchRequest(query=words[0], **asked))
        return Call("POST", "/search/batch", SearchBatchResponse, SearchBatchRequest(queries=words, **asked))
    encoded = [query_message(query.to_cpu()) for query in cast("Sequence[EncodedQuery]", queries)]
    body = EncodedSearchRequest(queries=encoded, texts=None if texts is None else check_texts(texts), **asked)
    return Call("POST", "/search/encoded", SearchBatchResponse, body)


def _each(answer: SearchResponse | SearchBatchResponse) -> list[SearchResponse]:
    return [answer] if isinstance(answer, SearchResponse) else answer.results


def _fetching(ids: Iterable[str]) -> Iterator[Call[DocumentList]]:
    wanted = _ids(ids)
    for start in range(0, len(wanted), _FETCHED):
        yield Call("POST", "/documents/get", DocumentList, Ids(ids=wanted[start : start + _FETCHED]))


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
    record = {"_id": document.id, "text": document.text, "metadata": plain_metadata(document.metadata)}
    return json.dumps(record, ensure_ascii=False).encode()
