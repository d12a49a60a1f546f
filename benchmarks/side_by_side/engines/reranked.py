"""A first stage over whole documents, and SumMaxSim over our codes for the documents it finds.

The strongest alternative to gathering by tokens: "A Reproducibility Study of PLAID" (arXiv 2404.14989) with BM25,
"Multivector Reranking in the Era of Strong First-Stage Retrievers" (arXiv 2601.05200) with learned first stages.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from side_by_side.corpus import Corpus
from side_by_side.engine import K, Knobs
from side_by_side.engines.fastlane import FastLane
from side_by_side.engines.packed import best
from side_by_side.worker import folder_bytes

DEPTHS = (50, 100, 200, 400)


class Reranked(ABC):
    """Our index in code, and a first stage that finds document numbers."""

    def __init__(self) -> None:
        self._late = FastLane("residual4")

    @abstractmethod
    def build_first(self, corpus: Corpus, folder: Path) -> None:
        """Build the first stage's index in an empty folder."""

    @abstractmethod
    def open_first(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Load it."""

    @abstractmethod
    def gather(self, query: Any, depth: int) -> np.ndarray:
        """Numbers of the documents to score, at most `depth`."""

    def build(self, corpus: Corpus, folder: Path) -> None:
        """Both indexes."""
        (folder / "first").mkdir()
        (folder / "late").mkdir()
        self.build_first(corpus, folder / "first")
        self._late.build(corpus, folder / "late")

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Open both indexes, and map corpus order to our document numbers."""
        self.open_first(corpus, folder / "first", threads)
        self._late.open(corpus, folder / "late", threads)
        with self._late._index._storage.view() as view:
            self._state = self._late._index._states.of(view.snapshot)
            places = view.snapshot.places(np.arange(int(view.snapshot.starts[-1])))
            ids = view.reader.ids_at(places)
        numbers = {id_: number for number, id_ in enumerate(ids)}
        self._places = np.array([numbers[id_] for id_ in corpus.ids])
        self._back = np.argsort(self._places)

    def settings(self) -> list[Knobs]:
        """The numbers of documents to score."""
        return [{"depth": depth} for depth in DEPTHS]

    def search(self, query: Any, knobs: Knobs) -> np.ndarray:
        """First stage, then all query tokens."""
        from fastlane_rag.search.lanes.exhaustive import rescore

        numbers = np.sort(self._places[self.gather(query, knobs["depth"])])
        scores, _ = rescore(self._state, self.rows(query), numbers)
        return self._back[numbers[best(scores, K)]]

    @abstractmethod
    def rows(self, query: Any) -> Any:
        """The query's token rows, a tensor."""

    def documents(self, answer: np.ndarray) -> list[int]:
        """Numbers."""
        return list(answer.tolist())

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """Both indexes."""
        late = self._late.index_bytes(folder / "late")
        first = folder_bytes(folder / "first")
        return {**late, "index": late["index"] + first, "first stage": first}
