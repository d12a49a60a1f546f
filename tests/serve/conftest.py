"""Fixtures of the server's tests: applications over small indexes of a stand-in encoder."""

import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from fastapi.testclient import TestClient
from word_model import WordModel

from fastlane_rag import FastLaneIndex, RemoteIndex
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.settings import ServeSettings

TEXTS = {
    "cat": "cats purr when they are content",
    "dog": "dogs bark at strangers",
    "bird": "birds sing in the morning",
    "fish": "fish swim in silence",
}


@pytest.fixture
def index(tmp_path):
    """Four documents on disk."""
    with FastLaneIndex.create(tmp_path / "animals", model=WordModel()) as index:
        index.add(list(TEXTS.values()), list(TEXTS), [{"legs": legs} for legs in (4, 4, 2, 0)])
        yield index


@pytest.fixture
def client_of(index):
    """Makes a client of an application over the index, told the given settings."""
    opened = []

    def make(**settings):
        client = TestClient(create_app(ServeSettings(**settings), {"animals": index}), raise_server_exceptions=False)
        opened.append(client.__enter__())
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of):
    """A client of an application with default settings."""
    return client_of()


@pytest.fixture(scope="session")
def real_client(model, passages):
    """A client of an application over twelve real passages and the bundled model."""
    with FastLaneIndex.create(model=model) as index:
        index.add([one["text"] for one in passages[:12]], [one["id"] for one in passages[:12]])
        with TestClient(create_app(ServeSettings(), {"peps": index})) as client:
            yield client


class Running:
    """A server in a thread of this process.

    Attributes:
        url: its address.
    """

    def __init__(self, app, **options):
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self):
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture
def running():
    """Starts servers of applications."""
    started = []

    def start(app, **options):
        started.append(Running(app, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def remote(running, index):
    """The four documents, on a server."""
    with RemoteIndex(running(create_app(ServeSettings(), {"animals": index})).url, retries=1) as remote:
        yield remote
