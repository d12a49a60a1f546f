"""Indexes as tools of an agent, by the Model Context Protocol."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from fastlane_rag import __version__
from fastlane_rag.errors import FastLaneError, FilterError, IndexNotFoundError
from fastlane_rag.index.protocol import matching
from fastlane_rag.serve.keys import ApiKey, holder
from fastlane_rag.types import Document

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from fastlane_rag.index.protocol import AnyIndex

__all__ = ["KeyGate", "create_server"]

P = ParamSpec("P")
T = TypeVar("T")

_MOST = 100  # passages or documents of one answer, which a language model has to read
_START = 200  # characters of a listed document
_READS = ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)
_FILTER = 'Only documents whose metadata match, such as {"lang": "en", "year": {"$gte": 2020}}; operators are '
_FILTER += "$eq $ne $gt $gte $lt $lte $in $nin $contains $exists, and between filters $and $or $not."

IndexName = Annotated[str | None, Field(description="The index; not needed where there is one alone.")]
MetadataFilter = Annotated[dict[str, Any] | None, Field(description=_FILTER)]


class FoundPassage(BaseModel):
    """A passage that was found; a higher score is better, and relevance is from 0 to 1."""

    id: str
    score: float
    relevance: float
    text: str
    metadata: dict[str, Any]


class StoredDocument(BaseModel):
    """A document, or the start of one."""

    id: str
    text: str
    metadata: dict[str, Any]


class Listing(BaseModel):
    """Some documents, and how many there are."""

    total: int
    documents: list[StoredDocument]


def create_server(indexes: Mapping[str, AnyIndex]) -> MCPServer[Any]:
    """A server with tools that search, fetch and list; none of them writes.

    Args:
        indexes: open indexes by name, here or on a server.
    """
    named = ", ".join(indexes)
    server: MCPServer[Any] = MCPServer(
        "fastlane",
        version=__version__,
        instructions=f"Finds passages of collections of documents by what they mean. Collections: {named}. "
        "Ask `search` in full sentences, then `get` whole documents by the ids it gives.",
    )

    def chosen(name: str | None) -> AnyIndex:
        if name is None and len(indexes) == 1:
            return next(iter(indexes.values()))
        if name is None or name not in indexes:
            raise IndexNotFoundError(f"there is no index {name!r}; name one of: {named}")
        return indexes[name]

    @server.tool(title="Search passages", annotations=_READS)
    @_told
    def search(
        query: Annotated[str, Field(description="What to find, best as a question or a sentence.")],
        k: Annotated[int, Field(ge=1, le=_MOST, description="Passages wanted.")] = 5,
        filter: MetadataFilter = None,
        hybrid: Annotated[bool, Field(description="Rank by words too, for exact names and codes.")] = False,
        index: IndexName = None,
    ) -> list[FoundPassage]:
        """Find the passages that answer a question best, best first."""
        found = chosen(index).search_detailed(query, k, filter=filter, hybrid=hybrid)
        if found.hint:
            raise FilterError(f"nothing matches the filter: {found.hint}")
        return [
            FoundPassage(
                id=hit.id,
                score=round(hit.score, 4),
                relevance=round(hit.relevance, 4),
                text=hit.text,
                metadata=hit.metadata,
            )
            for hit in found.hits
        ]

    @server.tool(title="Get documents", annotations=_READS)
    @_told
    def get(
        ids: Annotated[list[str], Field(max_length=_MOST, description="Ids, as search and list give them.")],
        index: IndexName = None,
    ) -> list[StoredDocument]:
        """The whole documents with these ids; those that are not stored are left out."""
        return [_document(one) for one in chosen(index).get(ids)]

    @server.tool(name="list", title="List documents", annotations=_READS)
    @_told
    def list_documents(
        filter: MetadataFilter = None,
        limit: Annotated[int, Field(ge=0, le=_MOST)] = 20,
        offset: Annotated[int, Field(ge=0)] = 0,
        index: IndexName = None,
    ) -> Listing:
        """Ids, metadata and the start of documents, in the order of their addition, and how many there are."""
        asked = chosen(index)
        found = asked.find(filter, limit, offset)
        return Listing(total=matching(asked, filter), documents=[_document(one, _START) for one in found])

    return server


def _told(tool: Callable[P, T]) -> Callable[P, T]:
    """A tool whose errors for users reach the agent, which can do better then."""

    @functools.wraps(tool)
    def telling(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return tool(*arguments, **options)
        except FastLaneError as error:
            raise ToolError(str(error)) from error

    return telling


def _document(document: Document, most: int | None = None) -> StoredDocument:
    """A document, or its first characters where it has more."""
    text = document.text
    short = text if most is None or len(text) <= most else f"{text[:most]}..."
    return StoredDocument(id=document.id, text=short, metadata=document.metadata)


class KeyGate:
    """Let only requests through that carry a key which may read.

    Args:
        app: what answers them.
        keys: the keys; none lets everybody through.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and self._keys:
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            scheme, _, key = given.partition(" ")
            found = holder(self._keys, key.strip()) if scheme.lower() == "bearer" else None
            if found is None or "read" not in found.scopes:
                from starlette.responses import PlainTextResponse

                refusal = PlainTextResponse(
                    "a key that may read is needed: Authorization: Bearer KEY\n", 401, {"WWW-Authenticate": "Bearer"}
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
