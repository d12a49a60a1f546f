"""Routes for those who run a server: what is served, health, metrics, checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse, Response

from fastlane_rag.remote.messages import Indexes, Message, ModelInfo, Problems, StatsMessage
from fastlane_rag.serve.metrics import CONTENT_TYPE_LATEST
from fastlane_rag.serve.problems import RESPONSES
from fastlane_rag.serve.service import CurrentService, Readable, Served, StrictRoute, Writable, may, reply

__all__ = ["health", "router"]

router = APIRouter(prefix="/v1/indexes", tags=["indexes"], responses=RESPONSES, route_class=StrictRoute)
health = APIRouter(tags=["operation"], responses=RESPONSES)

_ReadKey = Annotated[None, Depends(may("read"))]


class CompactRequest(Message):
    """How to compact: `retrain` trains the codec anew, on a sample of all documents."""

    retrain: bool = False


@router.get("", response_model=Indexes)
async def list_indexes(service: CurrentService, key: _ReadKey) -> Response:
    """The names of the indexes."""
    return reply(Indexes(indexes=list(service.indexes)))


@router.get("/{index}", response_model=StatsMessage)
async def stats(served: Readable) -> Response:
    """What an index holds and takes, and its model."""
    return await served.read(lambda: _stats(served))


@router.post("/{index}/verify", response_model=Problems)
async def verify(served: Readable) -> Response:
    """Read every byte of an index, and say what is wrong. Takes as long as reading does; one at a time."""
    return await served.check(lambda: Problems(problems=served.index.verify()))


@router.post("/{index}/optimize", status_code=204)
async def optimize(served: Writable) -> None:
    """Wait until segments are merged and in code, as far as that is due. Reads and writes go on."""
    await served.service.workers.check.run(served.index.optimize)


@router.post("/{index}/compact", status_code=204)
async def compact(asked: CompactRequest, served: Writable) -> None:
    """Rewrite an index into one segment, and give back the space of what was deleted; readers go on."""
    await served.service.workers.write.run(lambda: served.index.compact(retrain=asked.retrain))


@health.get("/health/live", response_class=PlainTextResponse)
async def live() -> str:
    """Whether the process answers at all."""
    return "alive\n"


@health.get("/health/ready", response_class=PlainTextResponse)
async def ready(service: CurrentService) -> str:
    """Whether every index can be read. Models are loaded before the server takes its first request."""
    await service.workers.status.run(lambda: [len(index) for index in service.indexes.values()])
    return "ready\n"


@health.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: CurrentService, key: _ReadKey) -> Response:
    """Counts and times for Prometheus."""

    def text() -> bytes:
        return service.metrics.text({name: len(index) for name, index in service.indexes.items()})

    return Response(await service.workers.status.run(text), media_type=CONTENT_TYPE_LATEST)


def _stats(served: Served) -> StatsMessage:
    index = served.index
    model = ModelInfo(
        name=index.model.name,
        dim=index.model.dim,
        fingerprint=index.model.fingerprint,
        takes_images=getattr(index.model, "takes_images", False),  # models of users may not say
    )
    settings = served.service.settings
    # Where on the server's disk the index lies is nothing for clients.
    return StatsMessage(
        name=served.name,
        read_only=settings.read_only or index.read_only,
        model=model,
        stats=replace(index.stats(), path=None),
        most_body_bytes=settings.most_body_bytes,
    )
