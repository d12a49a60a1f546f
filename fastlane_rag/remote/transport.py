"""Requests to a server, in turn or asynchronous: connections, retries, and problems as the errors they were."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from fastlane_rag import errors
from fastlane_rag.errors import FastLaneError, InvalidInputError, MissingExtraError, RemoteError
from fastlane_rag.remote.messages import Problem

if TYPE_CHECKING:
    import httpx
    from pydantic import BaseModel

__all__ = ["Call", "Transport"]

T = TypeVar("T")

# Of these nothing was done: the server is busy, or restarts.
_AGAIN = (429, 502, 503)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. All requests may be repeated: what is stored twice is stored once.

    Attributes:
        method: of HTTP.
        path: behind the address of the index.
        answer: the type of what comes back; None for nothing.
        body: JSON, or bytes as they are.
        writes: whether it may take as long as a write.
    """

    method: str
    path: str
    answer: type[T]
    body: BaseModel | Mapping[str, Any] | bytes | None = None
    writes: bool = False


class Transport:
    """Sends calls to one address. Safe to use from many threads and event loops, and after a fork.

    Args:
        url: what the paths of calls are put behind. A user name and a password in it are sent by HTTP's basic scheme,
            and shown nowhere.
        api_key: sent with each request; None for servers without keys.
        timeout: seconds a request that reads may take.
        write_timeout: seconds a request that writes may take.
        retries: how often a request is repeated.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float, write_timeout: float, retries: int) -> None:
        try:
            import httpx  # noqa: F401 -- to say at once that it is missing
        except ImportError as error:
            raise MissingExtraError("RemoteIndex needs httpx: pip install 'fastlane-rag[client]'") from error
        shown = re.sub(r"//[^/?#]*@", "//", url)
        if not _is_address(url):
            raise InvalidInputError(f"{shown!r} is no address of a server, such as http://localhost:8000")
        # Of any other, errors of httpx would show it.
        if api_key is not None and not (isinstance(api_key, str) and re.fullmatch("[!-~]+", api_key)):
            raise InvalidInputError("the API key must be a text of ASCII characters in one line, without spaces")
        self.url = shown
        self._login: tuple[str, str] | None = None
        if shown != url:
            parsed = urlsplit(url)
            self._login = unquote(parsed.username or ""), unquote(parsed.password or "")
            if api_key is not None:
                raise InvalidInputError(
                    f"the user name for {shown} would be sent in the place of the API key: give one of both"
                )
        self._timeout, self._write_timeout, self._retries = timeout, write_timeout, retries
        self._headers = {"User-Agent": "fastlane-rag"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._client: httpx.Client | None = None
        self._process = os.getpid()
        # Connections of an event loop are of no use in another one.
        self._asynchronous: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._asynchronous = weakref.WeakKeyDictionary()

    def ask(self, call: Call[T]) -> T:
        """The answer to a call.

        Raises:
            FastLaneError: the error that the server told, or RemoteError where it is no error of the library's.
        """
        import httpx

        sent = self._request(call)
        for attempt in range(self._retries + 1):
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._connections().request(**sent)
            except httpx.TransportError as error:
                outcome = error
            pause = self._pause(attempt, outcome)
            if pause is None:
                break
            time.sleep(pause)
        return self._answer(call, outcome)

    async def aask(self, call: Call[T]) -> T:
        """As `ask`, without blocking the event loop."""
        import httpx

        sent = self._request(call)
        for attempt in range(self._retries + 1):
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._loop_connections().request(**sent)
            except httpx.TransportError as error:
                outcome = error
            pause = self._pause(attempt, outcome)
            if pause is None:
                break
            await asyncio.sleep(pause)
        return self._answer(call, outcome)

    def close(self) -> None:
        """Close the connections, except those of event loops, which close with `aclose` or their loop."""
        client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            client.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and those outside of one."""
        client = self._asynchronous.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
        self.close()

    def _connections(self) -> httpx.Client:
        import httpx

        if self._client is None or self._process != os.getpid():
            self._client, self._process = httpx.Client(headers=self._headers, auth=self._login), os.getpid()
        return self._client

    def _loop_connections(self) -> httpx.AsyncClient:
        import httpx

        loop = asyncio.get_running_loop()
        if loop not in self._asynchronous:
            self._asynchronous[loop] = httpx.AsyncClient(headers=self._headers, auth=self._login)
        return self._asynchronous[loop]

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        timeout = self._write_timeout if call.writes else self._timeout
        sent: dict[str, Any] = {"method": call.method, "url": f"{self.url}{call.path}", "timeout": timeout}
        if isinstance(call.body, bytes):
            return sent | {"content": call.body, "headers": {"Content-Type": "application/x-ndjson"}}
        if call.body is not None:
            content = TypeAdapter(Any).dump_json(call.body)
            return sent | {"content": content, "headers": {"Content-Type": "application/json"}}
        return sent

    def _pause(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt; None where this one is the last."""
        import httpx

        if attempt == self._retries:
            return None
        # A server that did not answer in time would only get more to do.
        if isinstance(outcome, httpx.TimeoutException) and not isinstance(outcome, httpx.ConnectTimeout):
            return None
        told = ""
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in _AGAIN:
                return None
            told = outcome.headers.get("retry-after", "")
        pause = float(told) if told.isdecimal() else _FIRST_PAUSE * 2**attempt
        return min(pause, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)

    def _answer(self, call: Call[T], outcome: httpx.Response | httpx.TransportError) -> T:
        import httpx

        if isinstance(outcome, httpx.TimeoutException):
            said = f"{self.url}{call.path} did not answer in time ({type(outcome).__name__})"
            raise RemoteError(f"{said}; is the server busy, or timeout= too short?") from outcome
        if not isinstance(outcome, httpx.Response):
            said = f"cannot reach {self.url}: {outcome or type(outcome).__name__}; is the server running?"
            raise RemoteError(said) from outcome
        if outcome.is_success:
            try:
                return TypeAdapter(call.answer).validate_json(outcome.content or b"null")
            except ValidationError as error:
                raise RemoteError(
                    f"what {self.url}{call.path} answered is not what a FastLane server answers"
                ) from error
        raise _error(f"{self.url}{call.path}", outcome)


def _is_address(url: str) -> bool:
    try:
        parsed = urlsplit(url)
        port = parsed.port
        host = (parsed.hostname or "").encode("idna")
    except ValueError:
        return False
    plain = url.isprintable() and not parsed.query and not parsed.fragment
    return plain and parsed.scheme in ("http", "https") and bool(host) and b" " not in host and port != 0


def _error(url: str, response: httpx.Response) -> FastLaneError:
    """The error that a response tells: of the same class as on the server."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return RemoteError(f"{url} answered {response.status_code} {response.reason_phrase}; is it a FastLane server?")
    kind = getattr(errors, problem.type.rpartition(":")[2], None)
    if isinstance(kind, type) and issubclass(kind, FastLaneError):
        return kind(problem.detail)
    return RemoteError(f"{url} answered {problem.status}, {problem.title}: {problem.detail}")
