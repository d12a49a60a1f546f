"""fastlane-rag: its default settings, grids of the approximate and the vector lane, and the exhaustive lane."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss  # noqa: F401  (imported here, so that it does not load within the timed part)
import numpy as np
import torch

from fastlane_rag.index import FastLaneIndex
from fastlane_rag.model import RoutedQuery
from fastlane_rag.model.stand_ins import condensed
from fastlane_rag.types import Document
from side_by_side.corpus import Corpus, Query
from side_by_side.engine import K, Knobs
from side_by_side.worker import folder_bytes

ROUTE_KS = (1, 4, 8, 16)
PROBES = (2, 4, 8)
DEPTHS = (32, 48, 96, 192)


def engine() -> "FastLane":
    """For `engine.load`."""
    return FastLane("residual4")


class Prepared:
    """A model that returns rows encoded before, in the order of the documents."""

    def __init__(self, corpus: Corpus, budget: float | None = None) -> None:
        self.name, self.fingerprint = corpus.facts["model"], corpus.facts["fingerprint"]
        self.dim = corpus.facts["dim"]
        self._rows = corpus.documents() if budget is None else _condensed(corpus, budget)

    def encode_documents(self, texts: list[str], **_: Any) -> list[np.ndarray]:
        """The rows of the next documents."""
        return [rows for _, rows in zip(texts, self._rows, strict=False)]

    def encode_routed(self, texts: list[str], **_: Any) -> list[Any]:
        """Not needed, because queries are encoded before."""
        raise NotImplementedError


class FastLane:
    """An index on disk, built by `add` and searched as users do, including the fetch of texts.

    Args:
        codec: as in `FastLaneIndex.create`.
        budget: tokens that the document router keeps of a document; None for all. Its choice is part of the build.
    """

    packages = ("fastlane-rag", "faiss-cpu", "torch")

    def __init__(self, codec: str, budget: float | None = None) -> None:
        self._codec, self._budget = codec, budget

    def build(self, corpus: Corpus, folder: Path) -> None:
        """Add all documents with their texts, a few thousand per write."""
        with FastLaneIndex.create(folder, model=Prepared(corpus, self._budget), codec=self._codec) as index:
            index.ingest(_documents(corpus), show_progress=False)

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Map the segments."""
        torch.set_num_threads(threads)
        self._index = FastLaneIndex.open(folder, model=Prepared(corpus), read_only=True)

    def settings(self) -> list[Knobs]:
        """The default, the exhaustive and the vector lane, and the grid of the approximate lane."""
        grid = [
            {"lane": "approximate", "route_k": route_k, "nprobe": nprobe, "depth": depth}
            for route_k in ROUTE_KS
            for nprobe in PROBES
            for depth in DEPTHS
        ]
        vector = [{"lane": "vector", "depth": depth} for depth in DEPTHS]
        return [{}, {"lane": "exhaustive", "route_k": "all"}, {"lane": "exhaustive", "route_k": 4}, *vector, *grid]

    def prepare(self, query: Query) -> Any:
        """A `RoutedQuery`."""
        rows, views, scores = map(torch.from_numpy, (query.rows, query.views, query.scores))
        return RoutedQuery(rows, scores, query.tokens, views)

    def search(self, query: Any, knobs: Knobs) -> Any:
        """One query, from its embeddings to hits with text and metadata."""
        return self._index.search_batch_detailed([query], K, **knobs)[0].hits

    def documents(self, answer: Any) -> list[str]:
        """Ids."""
        return [hit.id for hit in answer]

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """Segments alone: the catalogue holds texts and metadata, which no other engine stores."""
        segments = folder_bytes(folder / "segments")
        return {"index": segments, "catalogue with texts": folder_bytes(folder) - segments}


def _condensed(corpus: Corpus, budget: float) -> Iterator[np.ndarray]:
    """The rows that a budget keeps of each document."""
    for n, rows in enumerate(corpus.documents()):
        scores = torch.from_numpy(corpus.token_scores[corpus.offsets[n] : corpus.offsets[n + 1]])
        yield condensed(torch.from_numpy(rows), scores, budget).numpy()


def _documents(corpus: Corpus) -> Iterator[Any]:
    for id_, text in zip(corpus.ids, corpus.texts(), strict=True):
        yield Document(id_, text)
