"""The state of a server, and what a request takes from it: its index, its right to ask, its thread."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic_core import to_json
from starlette.responses import Response

from fastlane_rag.errors import IndexNotFoundError, InvalidInputError
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.images import check_sent_image
from fastlane_rag.search.options import check_keywords
from fastlane_rag.serve.batching import Batcher
from fastlane_rag.serve.keys import Scope, holder
from fastlane_rag.serve.metrics import Metrics
from fastlane_rag.serve.problems import Refused
from fastlane_rag.serve.requests import account
from fastlane_rag.serve.settings import ServeSettings
from fastlane_rag.serve.workers import Lane, Workers
from fastlane_rag.strict_json import read_json

__all__ = ["CurrentService", "Readable", "Served", "Service", "StrictRoute", "Writable", "may", "reply"]

_NAME = "The name of an index, as /v1/indexes lists it; - where there is one alone."
_ONLY = "-"
_bearer = HTTPBearer(auto_error=False, description="An API key.")


@dataclass(frozen=True, slots=True)
class Service:
    """What the requests of one server share.

    Attributes:
        settings: what the server was told.
        indexes: the open indexes by name.
        workers: its threads.
        metrics: its counters.
        searches: single searches, which are answered together where many wait.
    """

    settings: ServeSettings
    indexes: Mapping[str, FastLaneIndex]
    workers: Workers
    metrics: Metrics
    searches: Batcher[tuple[Response, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Served:
    """An index as one request sees it.

    Attributes:
        name: its name in addresses.
        index: the index.
        service: of the server.
    """

    name: str
    index: FastLaneIndex
    service: Service

    async def read(self, call: Callable[[], Any]) -> Response:
        """What a call that searches or reads returns, as JSON."""
        return await _answered(self.service.workers.read, call)

    async def write(self, call: Callable[[], Any]) -> Response:
        """What a call that writes returns, as JSON."""
        return await _answered(self.service.workers.write, call)

    async def check(self, call: Callable[[], Any]) -> Response:
        """What a long check returns, as JSON."""
        return await _answered(self.service.workers.check, call)

    def check_image(self, image: Any, where: str) -> None:
        """Refuse an image that a client sent and that must not be opened, see `check_sent_image`."""
        check_sent_image(self.index.model, image, where, self.service.settings.most_image_pixels)


def reply(value: Any) -> Response:
    """A value as JSON; a dataclass or a message."""
    return Response(to_json(value, inf_nan_mode="strings"), media_type="application/json")


async def _answered(lane: Lane, call: Callable[[], Any]) -> Response:
    return await lane.run(lambda: reply(call()))


class StrictRoute(APIRoute):
    """A route that reads bodies by `read_json`; FastAPI's takes the last value of a key that an object has twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def answering(request: Request) -> Response:
            return await answer(_Strict(request.scope, request.receive))

        return answering


class _Strict(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            return read_json(body)
        except ValueError as error:
            detail = f"the body {error}. {self.url.path} is described in /v1/openapi.json."
            raise Refused(422, "Invalid request", detail) from error


# Dependencies are coroutines, because FastAPI runs functions in threads.


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_service)]


def may(scope: Scope) -> Callable[..., Awaitable[None]]:
    """A dependency that lets only requests pass whose key has a scope. Without keys all may do everything."""

    async def check(
        service: CurrentService, given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> None:
        keys = service.settings.keys
        if not keys:
            return
        found = holder(keys, given.credentials) if given is not None else None
        if found is None:
            said = "there is no such API key" if given is not None else "an API key is needed"
            raise Refused(
                401,
                "Not authorised",
                f"{said}; send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        if (now := account.get()) is not None:
            now.key = found.name
        if scope not in found.scopes:
            raise Refused(403, "Not allowed", f"the key {found.name!r} may not {scope}; ask with one that may")

    return check


def _served(scope: Scope) -> Callable[..., Awaitable[Served]]:
    """A dependency that gives the index of a request whose key has a scope."""

    async def find(
        request: Request,
        service: CurrentService,
        key: Annotated[None, Depends(may(scope))],
        index: Annotated[str, Path(description=_NAME)],
    ) -> Served:
        known = [one.alias for one in request.scope["route"].dependant.query_params]
        check_keywords(request.query_params, known, f"{request.method} {request.url.path}")
        given = [name for name, _ in request.query_params.multi_items()]
        if twice := [name for i, name in enumerate(given) if name in given[:i]]:
            raise InvalidInputError(f"{request.url.path} is asked with {twice[0]!r} twice; give it once")
        index = _named(index, service.indexes)
        if (now := account.get()) is not None:
            now.index = index
        return Served(index, service.indexes[index], service)

    return find


def _named(name: str, indexes: Mapping[str, FastLaneIndex]) -> str:
    """The name of an index that is served.

    Raises:
        IndexNotFoundError: there is none of this name, or several where the only one is asked.
    """
    if name in indexes:
        return name
    if name == _ONLY and len(indexes) == 1:
        return next(iter(indexes))
    said = "this server has several indexes; name one" if name == _ONLY else f"no index is called {name!r}; there are"
    raise IndexNotFoundError(f"{said}: {', '.join(indexes)}")


Readable = Annotated[Served, Depends(_served("read"))]
Writable = Annotated[Served, Depends(_served("write"))]
