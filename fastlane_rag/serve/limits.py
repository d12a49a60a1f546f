"""What a client may send: how many bytes, how slowly, and to which host name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastlane_rag.serve.problems import Refused, problem_response

__all__ = ["STREAMED", "Limits"]

STREAMED = "/documents/ingest"
"""How the one path ends whose body may be of any length, because it is read line by line."""


class Limits:
    """Refuse bodies that are too long, clients that pause too long in them, and other host names.

    A page of a stranger's can make a browser send requests to this machine under the stranger's host name. So a server
    without keys takes only the names that it is told.

    Args:
        app: what answers.
        most_body_bytes: of a body that is not streamed.
        idle_seconds: between two parts of a body.
        hosts: allowed names; "*" allows all.
    """

    def __init__(self, app: ASGIApp, *, most_body_bytes: int, idle_seconds: float, hosts: Collection[str]) -> None:
        self._app, self._most, self._idle, self._hosts = app, most_body_bytes, idle_seconds, {*map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers.get("host", ""))
            if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
                detail = f"the body is in Content-Encoding {coding!r}; send it as it is"
                raise Refused(415, "Unsupported encoding", detail, {"Connection": "close"})
            streamed = scope["path"].endswith(STREAMED)
            if not streamed and int(headers.get("content-length") or 0) > self._most:
                raise self._too_long()
        except Refused as refused:
            response = problem_response(refused.status_code, refused.title, refused.detail, headers=refused.headers)
            await response(scope, receive, send)
            return
        read = 0

        async def receiving() -> Message:
            nonlocal read
            if read < 0:
                return await receive()  # the body is complete; what comes next is the client's leaving
            try:
                message = await asyncio.wait_for(receive(), self._idle)
            except TimeoutError:
                raise Refused(
                    408, "Too slow", f"no byte of the body came for {self._idle:g} s", {"Connection": "close"}
                ) from None
            read += len(message.get("body", b""))
            if not streamed and read > self._most:
                raise self._too_long()
            if not message.get("more_body", False):
                read = -1
            return message

        await self._app(scope, receiving, send)

    def _check_host(self, given: str) -> None:
        name = given.rsplit(":", 1)[0] if not given.endswith("]") else given
        if "*" not in self._hosts and name.lower() not in self._hosts:
            raise Refused(
                421,
                "Other host",
                f"this server does not answer as {name!r}; start it with --allowed-host {name or 'NAME'}",
            )

    def _too_long(self) -> Refused:
        return Refused(
            413,
            "Too long",
            f"the body is longer than {self._most} bytes; send less at once, or stream documents to /documents/ingest",
            {"Connection": "close"},
        )
