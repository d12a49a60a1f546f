"""Routes that store and fetch documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from fastlane_rag.errors import FastLaneError, InvalidInputError
from fastlane_rag.index.encoding import check_takes_images
from fastlane_rag.index.images import image_metadatas, sent_image
from fastlane_rag.index.protocol import matching
from fastlane_rag.remote.filters import filter_of
from fastlane_rag.remote.messages import (
    MOST_LISTED,
    Deleted,
    DocumentList,
    Filtered,
    FindDocuments,
    Ids,
    SelectDocuments,
    Updated,
    UpdateMetadata,
    UpsertImages,
    UpsertRequest,
    rows_of,
)
from fastlane_rag.search.options import parse_filter
from fastlane_rag.serve.ingestion import Ingestion
from fastlane_rag.serve.problems import RESPONSES, Refused, of_error
from fastlane_rag.serve.service import Readable, Served, StrictRoute, Writable, reply
from fastlane_rag.types import IMAGE_KEY, Document, Ingested

__all__ = ["router"]


class _Anything(StringConvertor):
    """The rest of a path. Starlette's own `path` ends before a line break, which an id may have."""

    regex = "(?s:.*)"


register_url_convertor("anything", _Anything())
router = APIRouter(
    prefix="/v1/indexes/{index}/documents", tags=["documents"], responses=RESPONSES, route_class=StrictRoute
)


@router.post("", response_model=Ids)
async def upsert(asked: UpsertRequest, served: Writable) -> Response:
    """Add documents, and replace those whose id is stored already: all of them or, after an error, none."""

    def answer() -> Ids:
        documents, index = asked.documents, served.index
        texts, ids = [one.text for one in documents], [one.id for one in documents]
        metadatas = [one.metadata for one in documents]
        for i, metadata in enumerate(metadatas):
            served.check_image((metadata or {}).get(IMAGE_KEY), f"document {i}")
        rows = [rows_of(one.embeddings) for one in documents if one.embeddings is not None]
        if not rows:
            return Ids(ids=index.add(texts, ids, metadatas, show_progress=False))
        if len(rows) < len(documents):
            raise InvalidInputError(f"{len(rows)} of {len(documents)} documents have embeddings; give all or none")
        return Ids(ids=index.add_embeddings(rows, ids, texts, metadatas))

    return await served.write(answer)


@router.post("/images", response_model=Ids)
async def upsert_images(asked: UpsertImages, served: Writable) -> Response:
    """Add documents that are images, and replace those whose id is stored already: all or, after an error, none."""

    def answer() -> Ids:
        given, index = asked.images, served.index
        check_takes_images(index.model, "images were sent")
        images = [sent_image(one.image, f"images[{i}]") for i, one in enumerate(given)]
        for i, image in enumerate(images):
            served.check_image(image, f"images[{i}]")
        metadatas = image_metadatas(images, [one.metadata for one in given])
        return Ids(
            ids=index.add([one.text for one in given], [one.id for one in given], metadatas, show_progress=False)
        )

    return await served.write(answer)


@router.post(
    "/ingest",
    response_model=Ingested,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
    },
)
async def ingest(request: Request, served: Writable) -> Response:
    """Add documents from a stream of any length, a JSON object a line: `_id` (or `id`), `text`, `title`, `metadata`.

    A few hundred lines at a time are one write, and no more is read from the connection until they are stored. A bad
    line ends it with a problem that has the line's number, and what was stored before. What is stored unchanged
    already is passed over, so the same stream can be sent again.
    """
    # A stranger's page can make a browser send text and forms anywhere, but nothing of these types without being asked.
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not sent.startswith("application/") or sent == "application/x-www-form-urlencoded":
        detail = f"the body has the Content-Type {sent!r}; send the header Content-Type: application/x-ndjson"
        raise Refused(415, "Unsupported media type", detail, {"Connection": "close"})
    ingestion = Ingestion(served)
    try:
        await ingestion.take(request.stream())
    except FastLaneError as error:
        return of_error(error, stored=asdict(ingestion.done))
    except Refused as refused:
        refused.more["stored"] = asdict(ingestion.done)
        raise
    return reply(ingestion.done)


@router.get("", response_model=DocumentList)
async def list_documents(
    served: Readable,
    filter: Annotated[str | None, Query(description="A metadata filter, a JSON object.")] = None,
    limit: Annotated[int, Query(ge=0, le=MOST_LISTED)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Documents in the order of their first addition."""
    return await served.read(lambda: _page(served, _filter(filter), limit, offset))


@router.post("/find", response_model=DocumentList)
async def find_documents(asked: FindDocuments, served: Readable) -> Response:
    """As `GET`, for filters that are too long for an address."""
    return await served.read(lambda: _page(served, filter_of(asked.filter), asked.limit, asked.offset))


@router.post("/get", response_model=DocumentList)
async def get_documents(asked: Ids, served: Readable) -> Response:
    """The documents with these ids, in this order, without those that are not stored."""

    def answer() -> DocumentList:
        found = served.index.get(asked.ids)
        return DocumentList(documents=found, total=len(found))

    return await served.read(answer)


@router.post("/ids", response_model=Ids)
async def list_ids(asked: Filtered, served: Readable) -> Response:
    """The ids of all documents, or of those that pass a filter, in the order of their first addition."""
    return await served.read(lambda: Ids(ids=served.index.ids(filter_of(asked.filter))))


@router.post("/delete", response_model=Deleted)
async def delete_documents(asked: SelectDocuments, served: Writable) -> Response:
    """Delete documents by id, by filter, or by both; the filter {} passes every document."""
    filter_ = filter_of(asked.filter)
    return await served.write(lambda: Deleted(deleted=served.index.delete(asked.ids, filter=filter_)))


@router.post("/metadata", response_model=Updated)
async def update_metadata(asked: UpdateMetadata, served: Writable) -> Response:
    """Replace the metadata of stored documents, without encoding their text again."""
    return await served.write(lambda: Updated(updated=served.index.update_metadata(asked.ids, asked.metadatas)))


@router.get("/{id:anything}", response_model=Document)
async def get_document(id: str, served: Readable) -> Response:
    """One document."""

    def answer() -> Document:
        found = served.index.get([id])
        if not found:
            raise Refused(404, "No such document", f"the index {served.name!r} holds no document with the id {id!r}")
        return found[0]

    return await served.read(answer)


@router.delete("/{id:anything}", response_model=Deleted)
async def delete_document(id: str, served: Writable) -> Response:
    """Delete one document. It is no error where it is not stored."""
    return await served.write(lambda: Deleted(deleted=served.index.delete([id])))


def _page(served: Served, filter: dict[str, Any] | None, limit: int, offset: int) -> DocumentList:
    index = served.index
    return DocumentList(documents=index.find(filter, limit, offset), total=matching(index, filter))


def _filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = parse_filter(text)
    except ValueError as error:
        raise InvalidInputError(f"filter={error}") from error
    return filter_of(found)
