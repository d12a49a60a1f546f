"""Fixtures of the index tests: small indexes over a stand-in encoder."""

import sys
from pathlib import Path

import pytest

# Test modules and the child processes they start share helpers that live beside them.
sys.path.insert(0, str(Path(__file__).parent))

from word_model import WordModel

from fastlane_rag import FastLaneIndex


@pytest.fixture
def word_model() -> WordModel:
    return WordModel()


@pytest.fixture(params=["disk", "memory"])
def index(request, tmp_path, word_model):
    """An empty index, once on disk and once in memory."""
    path = tmp_path / "index" if request.param == "disk" else None
    with FastLaneIndex.create(path, model=word_model) as index:
        yield index


@pytest.fixture
def small_limits(monkeypatch):
    """Size limits so low that a few documents exercise pending rows, segments and merges."""
    from fastlane_rag.upkeep import merge, write

    monkeypatch.setattr(write, "SMALL_BYTES", 400)
    monkeypatch.setattr(merge, "PENDING_BYTES", 1600)
