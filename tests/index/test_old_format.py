"""An index that a version before document vectors wrote (tests/fixtures/store-2) opens, works, and gets its lane."""

import random
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.storage import segment

FIXTURE = Path(__file__).parents[1] / "fixtures" / "store-2"


def written():
    """What the fixture holds: id, text and metadata."""
    chance = random.Random(2)
    texts = [" ".join(f"w{chance.randrange(60)}" for _ in range(12)) for _ in range(190)]
    return {f"d{n}": (text, {"odd": n % 2}) for n, text in enumerate(texts) if n not in (3, 70)}


@pytest.fixture
def old(tmp_path):
    path = shutil.copytree(FIXTURE, tmp_path / "old")
    for file in (path, *path.rglob("*")):
        file.chmod(file.stat().st_mode | stat.S_IWUSR)
    return path


def version(path):
    with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
        return catalogue.execute("PRAGMA user_version").fetchone()[0]


def contents(index):
    return {document.id: (document.text, document.metadata) for document in index.get(index.ids())}


def with_vectors(index):
    """How many of the segments hold vectors, and how many there are."""
    with index._storage.view() as view:
        sources = [part.source for part in view.snapshot.parts if isinstance(part.source, segment.Segment)]
        return sum(source.vectors is not None for source in sources), len(sources)


def test_it_opens_as_it_is(old):
    with FastLaneIndex.open(old, model=WordModel(), read_only=True) as index:
        assert contents(index) == written()
        assert index.verify() == []
        text = written()["d17"][0]
        assert index.search(text, 1)[0].id == "d17"
        [result] = index.search_batch_detailed([text], 1, lane="vector")
        assert (result.lane, result.hits[0].id) == ("exhaustive", "d17")
    assert version(old) == 2


def test_writes_leave_the_version_alone_until_there_is_a_map(old):
    with FastLaneIndex.open(old, model=WordModel()) as index:
        index.add(["w1 w2 new"], ids=["new"])
        index.delete(["d5"])
        assert index.verify() == []
        assert {*contents(index)} == {*written(), "new"} - {"d5"}
        index.compact()
        assert index.verify() == []
        assert with_vectors(index) == (0, 1)
    assert version(old) == 2


def test_retraining_gives_it_vectors(old):
    with FastLaneIndex.open(old, model=WordModel()) as index:
        index.compact(retrain=True)
        assert contents(index) == written()
        assert with_vectors(index) == (1, 1)
        assert index.verify() == []
        assert index.search(written()["d17"][0], 1)[0].id == "d17"
    assert version(old) == 3
    with FastLaneIndex.open(old, model=WordModel(), read_only=True) as index:
        assert contents(index) == written()
        [result] = index.search_batch_detailed([written()["d17"][0]], 1, lane="vector")
        assert (result.lane, result.hits[0].id) == ("vector", "d17")
