"""Running a server: uvicorn, with one process or several."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack

from fastapi import FastAPI

from fastlane_rag.serve.logs import log_to_stderr
from fastlane_rag.serve.metrics import FOLDER
from fastlane_rag.serve.settings import ServeSettings

__all__ = ["application", "run"]

# What a server is told reaches its processes by the environment, because uvicorn starts them anew.
_SETTINGS = "FASTLANE_SERVE_SETTINGS"
# How long requests may take after the server was told to stop. Connections that only wait are closed at once.
_STOP_SECONDS = 30
_IDLE_CONNECTION_SECONDS = 75
_BACKLOG = 2048


def run(settings: ServeSettings, host: str, port: int, workers: int) -> None:
    """Serve until a signal says stop: then requests are answered, indexes closed, and this returns.

    Args:
        settings: what the server is told.
        host: the address to listen at.
        port: the port; 0 takes a free one, which the log names.
        workers: processes. Each opens the indexes itself, and starts again where it dies.
    """
    import uvicorn

    _many_files()
    with ExitStack() as stack:
        os.environ[_SETTINGS] = settings.model_dump_json()
        stack.callback(os.environ.pop, _SETTINGS, None)
        if workers > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlane-metrics-"))
            os.environ[FOLDER] = folder
            stack.callback(os.environ.pop, FOLDER, None)
        log_to_stderr(settings.log_format)
        uvicorn.run(
            f"{__name__}:application",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            log_config=None,
            access_log=False,
            backlog=_BACKLOG,
            server_header=False,
            timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )


def application() -> FastAPI:
    """The application of a process that `run` started."""
    import torch

    from fastlane_rag.serve.app import create_app

    settings = ServeSettings.model_validate_json(os.environ[_SETTINGS])
    log_to_stderr(settings.log_format)
    # Requests are what runs in parallel here; threads within one would only get into each other's way.
    torch.set_num_threads(1)
    return create_app(settings)


def _many_files() -> None:
    """Allow as many connections as the system lets this process have."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
