"""lateweave's packed exact scorer over every document."""

from pathlib import Path

import numpy as np
from lateweave import maxsim_scores_packed

from side_by_side.corpus import Corpus, Query
from side_by_side.engine import K, Knobs
from side_by_side.engines.packed import best, keep_rows, packed_bytes


def engine() -> "Lateweave":
    """For `engine.load`."""
    return Lateweave()


class Lateweave:
    """`maxsim_scores_packed` over all rows in float32, which is what it takes."""

    packages = ("lateweave",)

    def build(self, corpus: Corpus, folder: Path) -> None:
        """Keep the rows."""
        keep_rows(corpus, folder)

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Read the rows."""
        self._rows = np.load(folder / "rows.npy").astype(np.float32)
        self._lengths = np.diff(np.load(folder / "offsets.npy"))
        self._threads = threads

    def settings(self) -> list[Knobs]:
        """There is nothing to set."""
        return [{"rows": "float32"}]

    def prepare(self, query: Query) -> np.ndarray:
        """(L, d) float32."""
        return query.rows

    def search(self, query: np.ndarray, knobs: Knobs) -> np.ndarray:
        """SumMaxSim with every document."""
        return best(maxsim_scores_packed(query, self._rows, self._lengths, threads=self._threads), K)

    def documents(self, answer: np.ndarray) -> list[int]:
        """Numbers."""
        return list(answer.tolist())

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """Rows in half precision and offsets."""
        return packed_bytes(folder)
