"""Graphs of the vectors of large segments (faiss's HNSW), built when they are first needed and kept by segment."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import MissingExtraError
from fastlane_rag.storage.snapshot import Mask

if TYPE_CHECKING:
    from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["Graph", "Graphs"]

LINKS = 32
EFFORT = 80  # efConstruction
LEAST_KEPT = 256  # efSearch, at least; twice the candidates wanted if that is more
_BLOCK = 1 << 15  # vectors decoded at once


class Graph:
    """An HNSW graph over the vectors of one segment, with 8 bits a dimension.

    Coordinates are divided by the root of what documents spread over them, and those of queries multiplied by it: the
    products stay, and documents and queries spread alike, without which the graph finds half as much.

    Args:
        vectors: (N, m).

    Raises:
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, vectors: DocumentVectors) -> None:
        from fastlane_rag.scoring.threads import get_threads  # loads torch

        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError("a graph of vectors needs faiss: pip install 'fastlane-rag[cpu]'") from error
        self._faiss: Any = faiss
        some = vectors.decoded(slice(0, _BLOCK))
        self._spread = np.sqrt(np.sqrt(np.square(some).mean(0))).clip(1e-6)
        faiss.omp_set_num_threads(get_threads())
        kind: Any = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexHNSWSQ(some.shape[1], kind, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EFFORT
        self._index.train(some / self._spread)
        for first in range(0, len(vectors), _BLOCK):
            self._index.add(vectors.decoded(slice(first, first + _BLOCK)) / self._spread)

    def nearest(self, query: NDArray[np.float32], allowed: Mask | None, count: int) -> NDArray[np.int64]:
        """Positions, ascending, of about the `count` greatest products with a vector (m,); fewer where it finds fewer.

        Args:
            query: (m,) float32.
            allowed: (N,) documents that may be found; None for all.
            count: how many, at most N.
        """
        parameters = self._faiss.SearchParametersHNSW(efSearch=max(LEAST_KEPT, 2 * count))
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")  # the selector holds its address
            parameters.sel = self._faiss.IDSelectorBitmap(bits)
        _, found = self._index.search((query * self._spread)[None], count, params=parameters)
        positions: NDArray[np.int64] = np.sort(found[0])
        return positions[np.searchsorted(positions, 0) :]


class Graphs:
    """The graphs of segments, by the name of their file, so that a commit builds those of new segments alone."""

    def __init__(self) -> None:
        self._known: dict[str, Graph] = {}
        self._lock = threading.Lock()
        self._missing = False

    def of(self, segment: str, vectors: DocumentVectors) -> Graph | None:
        """The graph of a segment, built where there is none yet; None without faiss, after one warning."""
        with self._lock:
            if segment not in self._known and not self._missing:
                try:
                    self._known[segment] = Graph(vectors)
                except MissingExtraError as error:
                    self._missing = True
                    warnings.warn(f"{error}. Until then all vectors are scanned.", RuntimeWarning, stacklevel=2)
            return self._known.get(segment)

    def keep(self, segments: Iterable[str]) -> None:
        """Forget the graphs of all other segments."""
        with self._lock:
            names = set(segments)
            self._known = {name: graph for name, graph in self._known.items() if name in names}
