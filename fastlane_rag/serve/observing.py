"""The outermost layer of the application: a request's id, its log line, its counts, and the last resort."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastlane_rag.serve.metrics import Metrics
from fastlane_rag.serve.problems import internal
from fastlane_rag.serve.requests import Account, account, request_id

__all__ = ["Observing"]

_HEADER = "X-Request-ID"
_USABLE = re.compile(r"[\w.:/+=-]{1,128}")
# What the page may load and do: its own files, and nothing of anybody else's.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_CLIENT_GONE = 499
_logger = logging.getLogger("fastlane_rag.serve")


class Observing:
    """Give each request an id, tell what came of it, and answer errors that nobody foresaw.

    A client's own X-Request-ID is kept where it is short and harmless.

    Args:
        app: what answers.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # answered as GET is; the server sends the head of it
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get(_HEADER, "")
        id_ = given if _USABLE.fullmatch(given) else uuid.uuid4().hex
        request_id.set(id_)
        now = Account()
        account.set(now)
        start, status = time.perf_counter(), _CLIENT_GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[_HEADER] = id_
                for name, value in _SAFE.items():
                    headers[name] = value
            await send(message)

        self._metrics.began()
        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            pass  # nobody is there to be told; the log line says 499
        except Exception:
            _logger.exception("request %s failed", id_)
            if status == _CLIENT_GONE:
                await internal()(scope, receive, sending)
            else:
                raise  # half of an answer is out: closing the connection is all that is left
        finally:
            seconds = time.perf_counter() - start
            self._metrics.ended(method, _route(scope), status, seconds)
            if now.milliseconds:
                self._metrics.searched(now.index, now.milliseconds)
            _logger.info("request", extra={"request": _line(scope, method, id_, status, seconds, now)})


def _route(scope: Scope) -> str:
    """The route's pattern, so that ids do not become labels; the same for all that is not found."""
    route = scope.get("route")
    return str(getattr(route, "path", "none"))


def _line(scope: Scope, method: str, id_: str, status: int, seconds: float, now: Account) -> dict[str, Any]:
    client = scope.get("client")
    line: dict[str, Any] = {
        "request_id": id_,
        "method": method,
        "path": scope["path"],
        "route": _route(scope),
        "status": status,
        "milliseconds": round(1000 * seconds, 2),
        "client": client[0] if client else None,
    }
    told = {"index": now.index, "key": now.key, "stages": {k: round(v, 2) for k, v in now.milliseconds.items()}}
    return line | {name: value for name, value in told.items() if value}
