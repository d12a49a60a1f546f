"""Baselines to compare FastLane with: one vector per document, and BM25."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastlane_rag.errors import MissingExtraError
from fastlane_rag.evaluation.method import Answer

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel

_LINKS = 32
_KEPT = 64

Vectors = npt.NDArray[np.float32]


class Dense:
    """One mean-pooled vector per document, by the same encoder, searched exhaustively.

    Args:
        model: encodes the queries.
        ids: the documents' ids.
        vectors: (N, h) float32, L2-normalised, row i belongs to ids[i].
    """

    name = "dense"

    def __init__(self, model: "FastLaneModel", ids: list[str], vectors: Vectors) -> None:
        self._model = model
        self._ids = ids
        self._vectors = vectors
        self.bytes_per_document: float | None = vectors.nbytes / len(ids)

    def answer(self, query: str, depth: int) -> Answer:
        """The documents with the highest cosine."""
        start = perf_counter()
        vector = self._model.encode_dense_queries([query])[0]
        encoded = perf_counter()
        order = _best(self._vectors @ vector, depth)
        ids = [self._ids[i] for i in order]
        return Answer(ids, encoded - start, perf_counter() - encoded, comparisons=float(len(self._ids)))


class Hnsw(Dense):
    """The same vectors in faiss's HNSW graph (M 32, efSearch 64), as vector stores use it.

    Args:
        model: encodes the queries.
        ids: the documents' ids.
        vectors: (N, h) float32, L2-normalised, row i belongs to ids[i].

    Raises:
        MissingExtraError: faiss is not installed.
    """

    name = "dense hnsw"

    def __init__(self, model: "FastLaneModel", ids: list[str], vectors: Vectors) -> None:
        super().__init__(model, ids, vectors)
        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError("HNSW needs faiss: pip install 'fastlane-rag[cpu]'") from error
        self._faiss: Any = faiss
        self._graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction = 200
        self._graph.add(vectors)
        self.bytes_per_document = len(faiss.serialize_index(self._graph)) / len(ids)

    def answer(self, query: str, depth: int) -> Answer:
        """The documents with the highest cosine that the graph finds."""
        start = perf_counter()
        vector = self._model.encode_dense_queries([query])
        encoded = perf_counter()
        self._graph.hnsw.efSearch = max(_KEPT, depth)
        self._faiss.cvar.hnsw_stats.reset()
        _, found = self._graph.search(vector, min(depth, len(self._ids)))
        seconds = perf_counter() - encoded
        ids = [self._ids[i] for i in found[0].tolist() if i >= 0]
        return Answer(ids, encoded - start, seconds, comparisons=float(self._faiss.cvar.hnsw_stats.ndis))


class Bm25:
    """BM25 over stemmed words, k1 = 0.9, b = 0.4.

    Args:
        ids: the documents' ids.
        texts: the documents, in the order of `ids`.

    Raises:
        MissingExtraError: bm25s or PyStemmer is not installed.
    """

    name = "bm25"
    bytes_per_document: float | None = None

    def __init__(self, ids: list[str], texts: list[str]) -> None:
        try:
            import bm25s
            import Stemmer
        except ImportError as error:
            raise MissingExtraError("BM25 needs bm25s and PyStemmer: pip install 'fastlane-rag[eval]'") from error
        self._ids = ids
        self._bm25s = bm25s
        self._stemmer = Stemmer.Stemmer("english")
        self._engine = bm25s.BM25(k1=0.9, b=0.4)
        self._engine.index(self._words(texts), show_progress=False)

    def answer(self, query: str, depth: int) -> Answer:
        """The documents with the highest BM25 score."""
        start = perf_counter()
        words = self._words([query])
        encoded = perf_counter()
        scores = self._engine.get_scores_from_ids(self._engine.get_tokens_ids(words[0]))
        ids = [self._ids[i] for i in _best(scores, depth)]
        return Answer(ids, encoded - start, perf_counter() - encoded, comparisons=None)

    def _words(self, texts: list[str]) -> list[list[str]]:
        words: list[list[str]] = self._bm25s.tokenize(
            texts, stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return words


def _best(scores: npt.NDArray[np.floating], depth: int) -> npt.NDArray[np.intp]:
    """Positions of the `depth` highest scores, best first, ties by position."""
    depth = min(depth, len(scores))
    if depth < len(scores):
        threshold = np.partition(scores, -depth)[-depth]
        candidates = np.flatnonzero(scores >= threshold)
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:depth]
