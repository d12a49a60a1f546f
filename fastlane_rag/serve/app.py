"""The application: indexes behind HTTP, versioned and described at /v1/openapi.json."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware

from fastlane_rag import __version__
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.serve import operating, page, problems, searching, storing
from fastlane_rag.serve.batching import Batcher
from fastlane_rag.serve.limits import Limits
from fastlane_rag.serve.metrics import Metrics
from fastlane_rag.serve.observing import Observing
from fastlane_rag.serve.service import Service
from fastlane_rag.serve.settings import ServeSettings
from fastlane_rag.serve.workers import Workers

__all__ = ["create_app"]


def create_app(settings: ServeSettings, indexes: Mapping[str, FastLaneIndex] | None = None) -> FastAPI:
    """An ASGI application that serves indexes.

    Args:
        settings: what it is told. The indexes it names are opened, with their models, before the first request is
            taken, and closed after the last one is answered.
        indexes: open indexes to serve besides, by name; they stay open.

    Raises:
        FastLaneError: at the start, if an index or its model cannot be opened.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as open_indexes:
            served = dict(indexes or {})
            for name, path in settings.indexes.items():
                served[name] = _opened(path, settings)
                # What the upkeep in the background has not done yet, the next write begins anew.
                open_indexes.callback(served[name].close, wait=False)
            workers = Workers(settings.cores, settings.most_waiting, settings.read_seconds, settings.write_seconds)
            open_indexes.callback(workers.close)
            app.state.service = Service(settings, served, workers, metrics, Batcher(workers.read))
            yield

    app = FastAPI(
        title="FastLane RAG",
        summary="Late-interaction retrieval over HTTP.",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        middleware=[
            Middleware(Observing, metrics=metrics),
            Middleware(
                Limits,
                most_body_bytes=settings.most_body_bytes,
                idle_seconds=settings.idle_seconds,
                hosts=settings.hosts,
            ),
        ],
    )
    problems.install(app)
    for router in (searching.router, storing.router, operating.router, operating.health, page.router):
        app.include_router(router)
    return app


def _opened(path: Path, settings: ServeSettings) -> FastLaneIndex:
    """An index with its model loaded, so that the first request is as quick as all others."""
    index = FastLaneIndex.open(
        path,
        model=settings.model,
        device=settings.device,
        read_only=settings.read_only,
        timeout=settings.lock_seconds,
    )
    try:
        index.search("warm", k=1)
    except BaseException:
        index.close()
        raise
    return index
