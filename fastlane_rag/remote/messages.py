"""What client and server send each other, as JSON.

Requests refuse keys they do not know. A search takes every option of `SearchOptions`, which also documents and checks
them: no option is written down here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, Self, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.explain import Span, TokenMatch
from fastlane_rag.remote.filters import filter_message, filter_of
from fastlane_rag.rerank import Ranked
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.result import Hit, with_relevance
from fastlane_rag.storage.filters import Filter
from fastlane_rag.types import Document, IndexStats, Lane, RouteK

__all__ = [
    "MOST_LISTED",
    "Deleted",
    "DocumentList",
    "EncodeRequest",
    "Encoded",
    "EncodedQueryMessage",
    "EncodedSearchRequest",
    "ExplainRequest",
    "Explained",
    "Filtered",
    "FindDocuments",
    "FoundDocument",
    "Ids",
    "Indexes",
    "Matrix",
    "Message",
    "ModelInfo",
    "NewDocument",
    "NewImage",
    "Packed",
    "Problem",
    "Problems",
    "RerankRequest",
    "Reranked",
    "SearchBatchRequest",
    "SearchBatchResponse",
    "SearchDetail",
    "SearchRequest",
    "SearchResponse",
    "SelectDocuments",
    "StatsMessage",
    "UpdateMetadata",
    "Updated",
    "UpsertImages",
    "UpsertRequest",
    "options_message",
    "rows_of",
    "to_packed",
]


class Message(BaseModel):
    """A message. Infinite numbers travel as the texts "Infinity" and "-Infinity", which JSON has no numbers for."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", arbitrary_types_allowed=True)


class Packed(Message):
    """A matrix of float32 in row order, little-endian, in base64: a quarter of the bytes of a list of numbers."""

    shape: tuple[int, int]
    float32: str


MOST_LISTED = 1000
"""Documents of one answer."""

Matrix = Packed | list[list[float]]
"""(L, dim) numbers, packed or as lists."""


def to_packed(rows: NDArray[np.floating[Any]]) -> Packed:
    """Pack a matrix."""
    little = np.ascontiguousarray(rows, dtype="<f4")
    return Packed(shape=(little.shape[0], little.shape[1]), float32=base64.b64encode(little.tobytes()).decode())


def rows_of(matrix: Matrix) -> NDArray[np.float32]:
    """The (L, dim) float32 matrix.

    Raises:
        InvalidInputError: it is no matrix, or its bytes do not fit its shape.
    """
    try:
        if not isinstance(matrix, Packed):
            rows = np.array(matrix, dtype=np.float32)
        else:
            data = base64.b64decode(matrix.float32, validate=True)
            rows = np.frombuffer(data, dtype="<f4").reshape(matrix.shape).astype(np.float32)
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(f"the embeddings are no (L, dim) matrix of float32: {error}") from error
    if rows.ndim != 2 or 0 in rows.shape:
        raise InvalidInputError(f"the embeddings are no (L, dim) matrix of float32, but of shape {rows.shape}")
    return rows


# Options whose values are objects in JSON, and something else in Python.
_OBJECTS = (Filter | None, SearchPolicy | None)


def _describe_options(schema: dict[str, Any]) -> None:
    """Add every search option to a request's JSON schema."""
    hints = get_type_hints(SearchOptions)
    for one in fields(SearchOptions):
        hint: Any = dict[str, Any] | None if hints[one.name] in _OBJECTS else hints[one.name]
        described = TypeAdapter(hint).json_schema()
        schema["properties"][one.name] = described | {"description": one.metadata["help"], "default": one.default}
    schema["additionalProperties"] = False


class _Search(Message):
    """What all searches take: besides the fields below, every option of `SearchOptions`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_describe_options)

    detail: bool = Field(
        default=False, description="Tell the routed tokens, the lane, comparisons and milliseconds of each stage."
    )
    embeddings: bool = Field(default=False, description="Tell, in the detail, the query's embeddings as well.")

    def options(self, policy: SearchPolicy) -> SearchOptions:
        """The options of the search, checked.

        Args:
            policy: the index's, which the constants of the option `policy` change.

        Raises:
            UnknownOptionError: a key is no option; the message names the nearest one.
            InvalidInputError: a value is not what it must be.
        """
        given = dict(self.model_extra or {})
        if isinstance(given.get("policy"), Mapping):
            given["policy"] = _policy(policy, given["policy"])
        if isinstance(given.get("filter"), Mapping):
            given["filter"] = filter_of(given["filter"])
        return SearchOptions.of(**given)


class SearchRequest(_Search):
    """One query."""

    query: str


class SearchBatchRequest(_Search):
    """Queries that are answered at one commit, sharing the work."""

    queries: list[str]
    texts: list[str] | None = Field(default=None, description="What a search by words takes instead of the queries.")


class EncodedSearchRequest(_Search):
    """Queries that come as embeddings."""

    queries: list[EncodedQueryMessage]
    texts: list[str] | None = Field(default=None, description="The queries' texts, which a search by words needs.")


class EncodedQueryMessage(Message):
    """An encoded query: (L, dim) unit embeddings of its tokens, and what a router says of them.

    Without scores all tokens gather.
    """

    embeddings: Matrix
    scores: list[float] | None = Field(default=None, description='Router scores; "-Infinity" is never routed.')
    tokens: list[str] | None = None
    views: Matrix | None = Field(default=None, description="Contextual views of the tokens, of a router that has them.")
    weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, description="How much each token counts, with the mean 1; all the same by default."
    )
    norms: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        default=None, description="Norms of the token states, by which a router chooses tokens that cover the query."
    )


class SearchDetail(Message):
    """What a search took; see `fastlane_rag.search.result.SearchResult`. Encoding is a stage here as well."""

    tokens: list[str]
    scores: list[float]
    selected: list[int]
    candidates: int
    gathered: int
    refined: int
    full: int
    lane: Lane
    by_words: int
    milliseconds: dict[str, float]
    query: EncodedQueryMessage | None = None


class FoundDocument(Message):
    """A document that was found. A higher score is better; relevance is from 0 to 1, and compares across queries."""

    id: str
    score: float
    relevance: float
    text: str
    metadata: dict[str, Any]

    @classmethod
    def of(cls, hit: Hit) -> Self:
        """The hit as it is sent."""
        return cls(id=hit.id, score=hit.score, relevance=hit.relevance, text=hit.text, metadata=hit.metadata)

    def hit(self) -> Hit:
        """The hit that was sent."""
        return with_relevance(Hit(self.id, self.score, self.text, self.metadata), self.relevance)


class SearchResponse(Message):
    """The hits of one query, best first, and why a filter matched nothing, where its keys or types tell."""

    hits: list[FoundDocument]
    hint: str = ""
    detail: SearchDetail | None = None


class SearchBatchResponse(Message):
    """One answer a query, in the order of the queries."""

    results: list[SearchResponse]


class RerankRequest(Message):
    """Texts to rank for a query, by SumMaxSim with all tokens of both."""

    query: str
    texts: list[str]
    top_n: Annotated[int, Field(ge=0)] | None = None


class Reranked(Message):
    """Texts, best first."""

    ranking: list[Ranked]


class ExplainRequest(Message):
    """A query and the document, or the text, whose score to explain."""

    query: str
    id: str | None = None
    text: str | None = None
    route_k: RouteK | None = None
    weighted: bool = True


class Explained(Message):
    """Which query tokens were routed, what each matched, and the spans to highlight, best first.

    Spans count characters (Unicode code points).
    """

    query: str
    text: str
    score: float
    routed_score: float
    tokens: list[TokenMatch]
    spans: list[Span]


class EncodeRequest(Message):
    """Texts to encode by the index's model."""

    texts: list[str]
    kind: Literal["query", "document"] = "query"
    packed: bool = Field(default=False, description="Send matrices as float32 in base64 instead of lists.")


class Encoded(Message):
    """One answer a text; those of documents have embeddings alone."""

    encoded: list[EncodedQueryMessage]


class NewDocument(Message):
    """A document to store. Without an id it gets one."""

    text: str
    id: str | None = None
    metadata: dict[str, Any] | None = None
    embeddings: Matrix | None = Field(
        default=None, description="Unit embeddings of its tokens, made elsewhere; the index's model does without."
    )


class UpsertRequest(Message):
    """Documents to store; those whose id is stored already are replaced. All of them have embeddings, or none."""

    documents: list[NewDocument]


class NewImage(Message):
    """An image to store as a document. Without an id it gets one."""

    image: str = Field(description="The base64 of an image file, or data:image/png;base64,... and the like.")
    id: str | None = None
    text: str = Field(default="", description="For hits and searches by words; the model does not see it.")
    metadata: dict[str, Any] | None = None


class UpsertImages(Message):
    """Images to store; those whose id is stored already are replaced."""

    images: list[NewImage]


class Ids(Message):
    """Document ids."""

    ids: list[str]


class DocumentList(Message):
    """Documents, and how many there are beyond this page."""

    documents: list[Document]
    total: int


class Filtered(Message):
    """Documents by filter; null passes all."""

    filter: dict[str, Any] | None = None


class FindDocuments(Filtered):
    """A page of the documents that pass a filter."""

    limit: Annotated[int, Field(ge=0, le=MOST_LISTED)] = 50
    offset: Annotated[int, Field(ge=0)] = 0


class SelectDocuments(Message):
    """Documents by id, by filter, or by both."""

    ids: list[str] | None = None
    filter: dict[str, Any] | None = None


class UpdateMetadata(Message):
    """New metadata of stored documents, one a id."""

    ids: list[str]
    metadatas: list[dict[str, Any] | None]


class Deleted(Message):
    """How many documents were deleted."""

    deleted: int


class Updated(Message):
    """How many documents were changed."""

    updated: int


class Problems(Message):
    """What is wrong with the files of an index, a sentence each; empty when it is sound."""

    problems: list[str]


class ModelInfo(Message):
    """The model of an index."""

    name: str
    dim: int
    fingerprint: str
    takes_images: bool = False


class StatsMessage(Message):
    """What an index holds and takes."""

    name: str
    read_only: bool
    model: ModelInfo
    stats: IndexStats
    most_body_bytes: int = Field(description="The longest body of a request.")


class Indexes(Message):
    """The names of the indexes that are served."""

    indexes: list[str]


class Problem(Message):
    """What went wrong, as RFC 9457 has it. `type` ends with the name of the error's class."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None


def options_message(told: SearchOptions) -> dict[str, Any]:
    """The options that are not their defaults, as a request has them.

    Raises:
        InvalidInputError: the filter holds a function, which cannot be sent.
    """
    found = {one.name: getattr(told, one.name) for one in fields(told) if getattr(told, one.name) != one.default}
    found["k"] = told.k
    if "filter" in found:
        found["filter"] = filter_message(told.filter)
    if told.policy is not None:
        found["policy"] = asdict(told.policy)
    return found


def _policy(policy: SearchPolicy, changes: Mapping[str, Any]) -> SearchPolicy:
    known = [one.name for one in fields(SearchPolicy)]
    for name in changes:
        if name not in known:
            raise InvalidInputError(f"{name!r} is no constant of a SearchPolicy; it has {', '.join(known)}")
    return replace(policy, **changes)
