"""SumMaxSim of all query tokens with all documents: GEMM by torch, maxima by numpy. The reference for quality."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from side_by_side.corpus import Corpus, Query
from side_by_side.engine import K, Knobs
from side_by_side.engines.packed import best, keep_rows, packed_bytes

BLOCK = 16_384
"""Rows to multiply at once, so that their products stay in the cache until the maxima are computed."""

FLOAT32_BYTES = 3 << 30
"""Rows are kept in float32 up to this size, larger ones in half precision and converted block by block."""


def engine() -> "Exhaustive":
    """For `engine.load`."""
    return Exhaustive()


def blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last document of blocks of about BLOCK rows."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1)
        yield first, last
        first = last


def resident(rows: np.ndarray) -> torch.Tensor:
    """Rows in memory, in float32 up to FLOAT32_BYTES."""
    return torch.from_numpy(rows.astype(np.float32) if rows.size * 4 <= FLOAT32_BYTES else np.array(rows))


class Exhaustive:
    """Torch's float32 product of blocks of rows with the query."""

    packages = ("torch", "numpy")

    def build(self, corpus: Corpus, folder: Path) -> None:
        """Keep the rows."""
        keep_rows(corpus, folder)

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Read the rows, in float32 if they are few enough."""
        rows = np.load(folder / "rows.npy", mmap_mode="r")
        offsets = np.load(folder / "offsets.npy")
        kept = resident(rows)
        self._dtype = "float32" if kept.dtype == torch.float32 else "float16, converted for each query"
        self._blocks = [
            (kept[offsets[first] : offsets[last]], offsets[first:last] - offsets[first])
            for first, last in blocks(offsets)
        ]

    def settings(self) -> list[Knobs]:
        """There is nothing to set."""
        return [{"rows": self._dtype}]

    def prepare(self, query: Query) -> torch.Tensor:
        """(L, d) float32."""
        return torch.from_numpy(query.rows)

    def search(self, query: torch.Tensor, knobs: Knobs) -> np.ndarray:
        """SumMaxSim with every document."""
        scores = [
            np.maximum.reduceat((query @ rows.float().T).numpy(), starts, axis=1).sum(axis=0)
            for rows, starts in self._blocks
        ]
        return best(np.concatenate(scores), K)

    def documents(self, answer: Any) -> list[int]:
        """Numbers."""
        return list(answer.tolist())

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """Rows in half precision and offsets."""
        return packed_bytes(folder)
