"""xtr-warp-rs: XTR/WARP in Rust over libtorch."""

from pathlib import Path
from typing import Any

import torch
from xtr_warp import XTRWarp

from side_by_side.corpus import Corpus, Query
from side_by_side.engine import K, Knobs
from side_by_side.worker import folder_bytes

PROBES = (None, 1, 2, 4, 8, 16, 32, 64)


def engine() -> "Warp":
    """For `engine.load`."""
    return Warp()


class Warp:
    """Four bits per dimension, on the CPU; settings vary the clusters to probe per query token (None: its default)."""

    packages = ("xtr-warp-rs",)

    def build(self, corpus: Corpus, folder: Path) -> None:
        """`create`; it takes all documents at once."""
        documents = [torch.from_numpy(rows) for rows in corpus.documents()]
        XTRWarp(str(folder)).create(documents, device="cpu", nbits=4, seed=42, show_progress=False)

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Load the index."""
        torch.set_num_threads(threads)
        self._threads = threads
        self._index = XTRWarp(str(folder)).load("cpu")

    def settings(self) -> list[Knobs]:
        """Probes."""
        return [{"nprobe": probe} for probe in PROBES]

    def prepare(self, query: Query) -> torch.Tensor:
        """(1, L, d) float32."""
        return torch.from_numpy(query.rows)[None]

    def search(self, query: torch.Tensor, knobs: Knobs) -> Any:
        """One query."""
        return self._index.search(query, top_k=K, num_threads=self._threads, show_progress=False, **knobs)

    def documents(self, answer: Any) -> list[int]:
        """Numbers."""
        return [number for number, _ in answer[0]]

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """All it wrote."""
        return {"index": folder_bytes(folder)}
