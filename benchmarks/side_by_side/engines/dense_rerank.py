"""Mean-pooled vectors of the same encoder in faiss's HNSW, then SumMaxSim over our codes.

The pooled vector of a query is given, as its token rows are: one forward pass makes both.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from side_by_side.corpus import Corpus, Query
from side_by_side.engines.reranked import Reranked

LINKS, CONSTRUCTION = 32, 200


def engine() -> "DenseRerank":
    """For `engine.load`."""
    return DenseRerank()


class DenseRerank(Reranked):
    """HNSW as `fastlane_rag.evaluation.baselines.Hnsw` has it."""

    packages = ("faiss-cpu", "fastlane-rag")

    def build_first(self, corpus: Corpus, folder: Path) -> None:
        """Link all vectors."""
        graph = faiss.IndexHNSWFlat(corpus.dense.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = CONSTRUCTION
        graph.add(corpus.dense)
        faiss.write_index(graph, str(folder / "dense.faiss"))

    def open_first(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Load it."""
        faiss.omp_set_num_threads(threads)
        self._graph = faiss.read_index(str(folder / "dense.faiss"))

    def prepare(self, query: Query) -> tuple[np.ndarray, Any]:
        """Dense vector and rows."""
        import torch

        return query.dense[None], torch.from_numpy(query.rows)

    def gather(self, query: tuple[np.ndarray, Any], depth: int) -> np.ndarray:
        """Documents by cosine."""
        self._graph.hnsw.efSearch = max(64, depth)
        _, found = self._graph.search(query[0], min(depth, self._graph.ntotal))
        return found[0][found[0] >= 0]

    def rows(self, query: tuple[np.ndarray, Any]) -> Any:
        """Token rows."""
        return query[1]
