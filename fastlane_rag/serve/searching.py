"""Routes that ask: search, rerank, explain, encode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.responses import Response

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import check_texts
from fastlane_rag.remote.encoded import matrix, query_message, received_query
from fastlane_rag.remote.messages import (
    Encoded,
    EncodedQueryMessage,
    EncodedSearchRequest,
    EncodeRequest,
    Explained,
    ExplainRequest,
    FoundDocument,
    Reranked,
    RerankRequest,
    SearchBatchRequest,
    SearchBatchResponse,
    SearchDetail,
    SearchRequest,
    SearchResponse,
)
from fastlane_rag.rerank import rerank
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.result import Hit, SearchResult
from fastlane_rag.serve.problems import RESPONSES
from fastlane_rag.serve.requests import account
from fastlane_rag.serve.service import Readable, Served, StrictRoute, reply
from fastlane_rag.serve.tracing import search_span

if TYPE_CHECKING:
    from fastlane_rag.search.query import EncodedQuery

__all__ = ["router"]

router = APIRouter(prefix="/v1/indexes/{index}", tags=["search"], responses=RESPONSES, route_class=StrictRoute)

SearchMessage = SearchRequest | SearchBatchRequest | EncodedSearchRequest


@router.post("/search", response_model=SearchResponse)
async def search(asked: SearchRequest, served: Readable) -> Response:
    """Find the documents that answer a query best. Takes every option of a search."""

    def answer(queries: Sequence[str]) -> list[tuple[Response, dict[str, float]]]:
        return [(reply(one), spent) for one, spent in _answers(served, asked, queries)]

    [query] = check_texts([asked.query], "query")
    kind = f"{served.name} {asked.model_dump_json(exclude={'query'})}"
    response, spent = await served.service.searches.ask(kind, query, answer)
    _note(spent)
    return response


@router.post("/search/batch", response_model=SearchBatchResponse)
async def search_batch(asked: SearchBatchRequest, served: Readable) -> Response:
    """Search for several queries at one commit, which shares the work."""
    return await served.read(lambda: _together(_answers(served, asked, check_texts(asked.queries, "queries"))))


@router.post("/search/encoded", response_model=SearchBatchResponse)
async def search_encoded(asked: EncodedSearchRequest, served: Readable) -> Response:
    """Search for queries that come as embeddings, such as `/encode` gives."""

    def answer() -> SearchBatchResponse:
        _check_number(served, "queries", asked.queries)
        queries = [received_query(one, f"queries[{number}]") for number, one in enumerate(asked.queries)]
        return _together(_found(served, asked, _told(served, asked), queries, asked.texts))

    return await served.read(answer)


@router.post("/rerank", response_model=Reranked)
async def rerank_texts(asked: RerankRequest, served: Readable) -> Response:
    """Rank texts by SumMaxSim with all tokens of query and text, without storing them."""

    def answer() -> Reranked:
        _check_number(served, "texts", asked.texts)
        texts, [query] = check_texts(asked.texts), check_texts([asked.query], "query")
        return Reranked(ranking=rerank(query, texts, model=served.index.model)[: asked.top_n])

    return await served.read(answer)


@router.post("/explain", response_model=Explained)
async def explain(asked: ExplainRequest, served: Readable) -> Response:
    """Which query tokens were routed, and where in a document, or in a text, each found its match."""

    def answer() -> Explained:
        if (asked.id is None) == (asked.text is None):
            raise InvalidInputError("give the id of a document or a text, one of the two")
        hit: Hit | str = asked.id or ""
        if asked.text is not None:
            [text] = check_texts([asked.text], "text")
            hit = Hit("", 0.0, text)
        found = served.index.explain(asked.query, hit, route_k=asked.route_k, weighted=asked.weighted)
        return Explained(
            query=found.query,
            text=found.text,
            score=found.score,
            routed_score=found.routed_score,
            tokens=list(found.tokens),
            spans=list(found.spans),
        )

    return await served.read(answer)


@router.post("/encode", response_model=Encoded)
async def encode(asked: EncodeRequest, served: Readable) -> Response:
    """The token embeddings of texts, and of queries what the router says of them."""

    def answer() -> Encoded:
        _check_number(served, "texts", asked.texts)
        texts, model = check_texts(asked.texts), served.index.model
        if not texts:
            return Encoded(encoded=[])
        if asked.kind == "query":
            return Encoded(encoded=[query_message(one, packed=asked.packed) for one in model.encode_routed(texts)])
        rows = model.encode_documents(texts, show_progress=False)
        return Encoded(encoded=[EncodedQueryMessage(embeddings=matrix(one, packed=asked.packed)) for one in rows])

    return await served.read(answer)


Answer = tuple[SearchResponse, dict[str, float]]
"""What is sent, and the milliseconds of each stage."""


def _together(answers: Sequence[Answer]) -> SearchBatchResponse:
    if answers:
        _note(answers[-1][1])
    return SearchBatchResponse(results=[one for one, _ in answers])


def _note(milliseconds: dict[str, float]) -> None:
    """Have the request's log line and counts tell the stages."""
    if (now := account.get()) is not None:
        now.milliseconds = milliseconds


def _answers(served: Served, asked: SearchMessage, queries: Sequence[str]) -> list[Answer]:
    _check_number(served, "queries", queries)
    told, texts = _told(served, asked), getattr(asked, "texts", None)
    if told.lane == "words" or not queries:  # no model is needed
        return _found(served, asked, told, queries, texts)
    start = time.perf_counter()
    encoded: Sequence[EncodedQuery] = served.index.model.encode_routed(queries)
    spent = 1000 * (time.perf_counter() - start) / len(queries)
    return _found(served, asked, told, encoded, queries if texts is None else texts, spent)


def _found(
    served: Served,
    asked: SearchMessage,
    told: SearchOptions,
    queries: Sequence[str] | Sequence[EncodedQuery],
    texts: Sequence[str] | None = None,
    encoding: float = 0.0,
) -> list[Answer]:
    """The answers to queries.

    Args:
        served: the index.
        asked: the request.
        told: its options.
        queries: encoded, or for the lane of words their texts.
        texts: of encoded queries; None where nobody told them.
        encoding: milliseconds that encoding took, a query.
    """
    with search_span(served.name, len(queries)) as tell:
        results = served.index.search_batch_detailed(queries, texts=texts, **_keywords(told))
        if results:
            tell({"encode": encoding, **results[0].milliseconds})
    answers = []
    for result in results:
        spent = {"encode": encoding, **result.milliseconds}
        detail = _detail(result, spent, asked.embeddings) if asked.detail or asked.embeddings else None
        found = [FoundDocument.of(hit) for hit in result.hits]
        answers.append((SearchResponse(hits=found, hint=result.hint, detail=detail), spent))
    return answers


def _told(served: Served, asked: SearchMessage) -> SearchOptions:
    told = asked.options(served.index.policy)
    most = served.service.settings.most_hits
    if told.k > most:
        raise InvalidInputError(f"k must be at most {most} here, not {told.k}; --max-hits of the server allows more")
    return told


def _keywords(told: SearchOptions) -> dict[str, Any]:
    return {name: getattr(told, name) for name in SearchOptions.names()}


def _detail(result: SearchResult, milliseconds: dict[str, float], embeddings: bool) -> SearchDetail:
    return SearchDetail(
        tokens=result.routed.tokens,
        scores=result.routed.scores.tolist(),
        selected=result.selected,
        candidates=result.candidates,
        gathered=result.gathered,
        refined=result.refined,
        full=result.full,
        lane=result.lane,
        by_words=result.by_words,
        milliseconds=milliseconds,
        query=query_message(result.routed) if embeddings and result.routed.tokens else None,
    )


def _check_number(served: Served, name: str, values: Sequence[Any]) -> None:
    most = served.service.settings.most_texts
    if len(values) > most:
        raise InvalidInputError(f"{name} must be at most {most} a request, not {len(values)}; send them in parts")
