"""A dozen short real passages, indexed once: what every adapter is tested over."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fastlane_rag import FastLaneIndex, FastLaneModel

TOPICS = (8, 255, 279, 318, 343, 371, 435, 465, 484, 557, 584, 616)


def pytest_report_header() -> list[str]:
    """Which frameworks a run of these tests alone is on."""
    return [f"{name} {importlib.metadata.version(name)}" for name in ("langchain-core", "llama-index-core")]


@dataclass(frozen=True)
class Passage:
    id: str
    text: str
    metadata: dict[str, Any]


@pytest.fixture(scope="session")
def corpus(passages: list[dict[str, str]]) -> list[Passage]:
    """The first short passage of each of twelve PEPs."""
    chosen: dict[int, Passage] = {}
    for passage in passages:
        pep = int(re.match(r"pep(\d+)-", passage["id"])[1])
        if pep in TOPICS and pep not in chosen and 200 < len(passage["text"]) < 500:
            metadata = {"pep": pep, "title": passage["title"], "tags": ["early" if pep < 400 else "late"]}
            chosen[pep] = Passage(passage["id"], passage["text"], metadata)
    assert len(chosen) == len(TOPICS)
    return list(chosen.values())


@pytest.fixture(scope="session")
def index(model: FastLaneModel, corpus: list[Passage]) -> Iterator[FastLaneIndex]:
    """The corpus in memory; tests that write make their own."""
    with FastLaneIndex.create(model=model) as index:
        index.add(
            [passage.text for passage in corpus],
            ids=[passage.id for passage in corpus],
            metadatas=[passage.metadata for passage in corpus],
        )
        yield index
