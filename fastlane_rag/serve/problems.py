"""Errors as problem+json (RFC 9457): which status each error has, and what its sender can do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fastlane_rag import errors
from fastlane_rag.remote.messages import Problem
from fastlane_rag.serve.requests import request_id

__all__ = ["MEDIA_TYPE", "RESPONSES", "Refused", "install", "internal", "of_error", "problem_response"]

MEDIA_TYPE = "application/problem+json"
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "What went wrong, and what to do.", "content": {MEDIA_TYPE: {}}, "model": Problem}
}
"""What every route's documentation says of errors."""

_AGAIN = {"Retry-After": "1"}
# The first class that an error is an instance of decides.
_STATUS: tuple[tuple[type[errors.FastLaneError], int], ...] = (
    (errors.InvalidInputError, 422),
    (errors.FilterError, 422),
    (errors.DataError, 422),
    (errors.IndexNotFoundError, 404),
    (errors.IndexReadOnlyError, 403),
    (errors.IndexLockedError, 503),
    (errors.IndexClosedError, 503),
    (errors.IndexReplacedError, 503),
    (errors.StorageError, 507),
    (errors.ModelMismatchError, 500),
    (errors.ModelError, 501),
    (errors.MissingExtraError, 501),
)
_logger = logging.getLogger("fastlane_rag.serve")


class Refused(HTTPException):
    """A request that the server refuses itself.

    Args:
        status: of HTTP.
        title: the kind of problem, the same for all of its kind.
        detail: what was wrong, with the value, and what to do.
        headers: of the response.
        more: further members of the problem.
    """

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.title, self.more = title, more


def problem_response(
    status: int,
    title: str,
    detail: str,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem as a response.

    Args:
        status: of HTTP.
        title: the kind of problem.
        detail: what was wrong and what to do.
        kind: name of the error's class in `fastlane_rag.errors`, by which clients raise it again.
        headers: of the response.
        **more: further members.
    """
    type_ = "about:blank" if kind is None else f"urn:fastlane-rag:error:{kind}"
    body = Problem(type=type_, title=title, status=status, detail=detail, request_id=request_id.get(), **more)
    return Response(
        body.model_dump_json(exclude_none=True), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem."""
    app.exception_handler(Refused)(_refused)
    app.exception_handler(errors.FastLaneError)(_failed)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http)


def of_error(error: errors.FastLaneError, **more: Any) -> Response:
    """The problem of one of the library's errors."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status >= 500:
        _logger.warning("a request failed: %s", error)
    kind = type(error).__name__
    headers = _AGAIN if status == 503 else None
    return problem_response(status, _title(kind), str(error), kind=kind, headers=headers, **more)


def internal() -> Response:
    """The problem of an error that nobody foresaw. Its text stays in the log."""
    return problem_response(
        500,
        "Internal error",
        "The server failed; its log has the reason under this request_id. It is safe to ask again.",
    )


def _title(kind: str) -> str:
    """`IndexLockedError` -> `Index locked`."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.removesuffix("Error"))
    return words.strip().capitalize()


def _refused(request: Request, error: Refused) -> Response:
    return problem_response(error.status_code, error.title, error.detail, headers=error.headers, **error.more)


def _failed(request: Request, error: errors.FastLaneError) -> Response:
    return of_error(error)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    if isinstance(error.body, bytes):  # which FastAPI did not take for JSON
        sent = request.headers.get("content-type", "")
        detail = f"the body has the Content-Type {sent!r}; send JSON, with the header Content-Type: application/json"
        return problem_response(415, "Unsupported media type", detail)
    found = [{"at": "/".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
    shown = "; ".join(f"{one['at']}: {one['what']}" for one in found[:5])
    detail = f"{shown}. {request.url.path} is described in /v1/openapi.json."
    return problem_response(422, "Invalid request", detail, errors=found[:50])


def _http(request: Request, error: HTTPException) -> Response:
    said = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    detail = f"{said.get(error.status_code, error.detail)}; /v1/openapi.json lists what there is"
    return problem_response(error.status_code, str(error.detail), detail, headers=error.headers)
