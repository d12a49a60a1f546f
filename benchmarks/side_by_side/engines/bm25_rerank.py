"""BM25 by bm25s, then SumMaxSim over our codes. Splitting the query into words is part of its time."""

from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from side_by_side.corpus import Corpus, Query
from side_by_side.engines.packed import best
from side_by_side.engines.reranked import Reranked


def engine() -> "Bm25Rerank":
    """For `engine.load`."""
    return Bm25Rerank()


class Bm25Rerank(Reranked):
    """Stemmed words, k1 = 0.9, b = 0.4, as `fastlane_rag.evaluation.baselines.Bm25`."""

    packages = ("bm25s", "PyStemmer", "fastlane-rag")

    def __init__(self) -> None:
        super().__init__()
        self._stemmer = Stemmer.Stemmer("english")

    def _words(self, texts: list[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s.tokenize(
            texts, stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return words

    def build_first(self, corpus: Corpus, folder: Path) -> None:
        """Index all texts."""
        index = bm25s.BM25(k1=0.9, b=0.4)
        index.index(self._words(list(corpus.texts())), show_progress=False)
        index.save(str(folder))

    def open_first(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Load it."""
        self._index = bm25s.BM25.load(str(folder))

    def prepare(self, query: Query) -> tuple[str, Any]:
        """Text and rows."""
        import torch

        return query.text, torch.from_numpy(query.rows)

    def gather(self, query: tuple[str, Any], depth: int) -> np.ndarray:
        """Documents by BM25."""
        [words] = self._words([query[0]])
        return best(self._index.get_scores_from_ids(self._index.get_tokens_ids(words)), depth)

    def rows(self, query: tuple[str, Any]) -> Any:
        """Token rows."""
        return query[1]
