"""fast-plaid: PLAID in Rust over libtorch."""

from pathlib import Path
from typing import Any

import torch
from fast_plaid.search import FastPlaid

from side_by_side.corpus import Corpus, Query
from side_by_side.engine import K, Knobs
from side_by_side.worker import folder_bytes

PROBES = (1, 2, 4, 8, 16)
FULL_SCORES = (64, 256, 4096)


def engine() -> "Plaid":
    """For `engine.load`."""
    return Plaid()


class Plaid:
    """Four bits per dimension, on the CPU; settings vary the lists to probe and the documents to score in full."""

    packages = ("fast-plaid", "fastkmeans")

    def build(self, corpus: Corpus, folder: Path) -> None:
        """`create`; it takes all documents at once."""
        documents = [torch.from_numpy(rows) for rows in corpus.documents()]
        # Below `start_from_scratch` documents it keeps the raw rows too, for later updates.
        FastPlaid(index=str(folder), device="cpu").create(documents, nbits=4, seed=42, start_from_scratch=0)

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Load the index; the first search of the warm-up reads it."""
        torch.set_num_threads(threads)
        self._index = FastPlaid(index=str(folder), device="cpu")

    def settings(self) -> list[Knobs]:
        """Its defaults are 8 and 4096."""
        return [{"n_ivf_probe": probe, "n_full_scores": full} for probe in PROBES for full in FULL_SCORES]

    def prepare(self, query: Query) -> torch.Tensor:
        """(1, L, d) float32."""
        return torch.from_numpy(query.rows)[None]

    def search(self, query: torch.Tensor, knobs: Knobs) -> Any:
        """One query."""
        return self._index.search(query, top_k=K, show_progress=False, **knobs)

    def documents(self, answer: Any) -> list[int]:
        """Numbers."""
        return [number for number, _ in answer[0]]

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """All it wrote."""
        return {"index": folder_bytes(folder)}
