"""Graphs of the vectors of large segments (faiss's HNSW), built in the background and kept by segment."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.storage.snapshot import Mask

if TYPE_CHECKING:
    from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["Graph", "Graphs"]

LINKS = 32
EFFORT = 80  # efConstruction
LEAST_KEPT = 256  # efSearch, at least; twice the candidates wanted if that is more
_SAMPLE = 1 << 15  # vectors that tell how far the coordinates spread
_BLOCK = 1 << 12  # vectors added at once, in less than a second

_logger = logging.getLogger(__name__)


class Graph:
    """An HNSW graph over the vectors of one segment, with 8 bits a dimension.

    Coordinates are divided by the root of what documents spread over them, and those of queries multiplied by it: the
    products stay, and documents and queries spread alike, without which the graph finds half as much.

    Args:
        vectors: (N, m).
        wanted: asked now and then while the graph is built; one that is wanted no longer stays unfinished.
    """

    def __init__(self, vectors: DocumentVectors, wanted: Callable[[], bool]) -> None:
        import faiss

        self._faiss: Any = faiss
        some = vectors.decoded(slice(0, _SAMPLE))
        self._spread = np.sqrt(np.sqrt(np.square(some).mean(0))).clip(1e-6)
        faiss.omp_set_num_threads(1)  # of this thread; the other cores are for searches
        kind: Any = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexHNSWSQ(some.shape[1], kind, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EFFORT
        self._index.train(some / self._spread)
        for first in range(0, len(vectors), _BLOCK):
            if not wanted():
                return
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
    """The graphs of segments, by the name of their file, so that a commit builds those of new segments alone.

    A thread builds one after the other, and ends. Until a graph is there, searches scan: one of 100,000 vectors takes
    20 s of a core.
    """

    def __init__(self) -> None:
        self._known: dict[str, Graph | None] = {}  # None where it could not be built
        self._wanted: dict[str, DocumentVectors] = {}  # in the order of the wishes
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._missing = False

    def of(self, segment: str, vectors: DocumentVectors) -> Graph | None:
        """The graph of a segment; None until it is built, and without faiss, of which one warning tells."""
        with self._lock:
            if segment not in self._known and segment not in self._wanted and not self._missing:
                self._wish(segment, vectors)
            return self._known.get(segment)

    def wait(self) -> None:
        """Wait until the graphs that searches wished for are there."""
        if (thread := self._thread) is not None:
            thread.join()

    def keep(self, segments: Iterable[str]) -> None:
        """Forget the graphs of all other segments, those that are being built as well."""
        with self._lock:
            names = set(segments)
            self._known = {name: graph for name, graph in self._known.items() if name in names}
            self._wanted = {name: vectors for name, vectors in self._wanted.items() if name in names}

    def _wish(self, segment: str, vectors: DocumentVectors) -> None:
        if find_spec("faiss") is None:
            self._missing = True
            message = "a graph of vectors needs faiss: pip install 'fastlane-rag[cpu]'"
            warnings.warn(f"{message}. Until then all vectors are scanned.", RuntimeWarning, stacklevel=3)
            return
        self._wanted[segment] = vectors
        if self._thread is None:
            self._thread = threading.Thread(target=self._build, name="fastlane-graphs", daemon=True)
            self._thread.start()

    def _build(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                segment, vectors = next(iter(self._wanted.items()))
            graph = None
            try:
                graph = Graph(vectors, partial(self._is_wanted, segment))
            except (MemoryError, RuntimeError) as error:  # faiss tells of memory by either
                _logger.warning("the graph of %s could not be built, so its vectors are scanned: %s", segment, error)
            with self._lock:
                if self._wanted.pop(segment, None) is not None:
                    self._known[segment] = graph

    def _is_wanted(self, segment: str) -> bool:
        return segment in self._wanted
