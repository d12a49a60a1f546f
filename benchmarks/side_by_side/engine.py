"""The interface of an engine, and the list of engines."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from side_by_side.corpus import Corpus, Query

K = 10
"""Documents to return for every query."""

Knobs = dict[str, Any]


class Engine(Protocol):
    """One engine over one corpus. `build` and `open` happen in different processes."""

    packages: Sequence[str]
    """Distributions whose versions are reported."""

    def build(self, corpus: Corpus, folder: Path) -> None:
        """Build the index of the corpus in an empty folder; timed."""
        ...

    def open(self, corpus: Corpus, folder: Path, threads: int) -> None:
        """Open the index that `build` made, to search with this many threads."""
        ...

    def settings(self) -> list[Knobs]:
        """The settings to measure, as `search` takes them."""
        ...

    def prepare(self, query: Query) -> Any:
        """Convert a query for `search`; not timed."""
        ...

    def search(self, query: Any, knobs: Knobs) -> Any:
        """Answer one query; timed."""
        ...

    def documents(self, answer: Any) -> list[str] | list[int]:
        """The K best of an answer, best first, by id or by number in the corpus; not timed."""
        ...

    def index_bytes(self, folder: Path) -> dict[str, int]:
        """Bytes on disk that searching needs, as "index", and other sizes worth reporting."""
        ...


Role = Literal["exhaustive", "peer", "baseline", "ours"]

# name: (module of side_by_side.engines, group of benchmarks/requirements or None for our own environment, role)
ENGINES: dict[str, tuple[str, str | None, Role]] = {
    "exhaustive torch": ("exhaustive", None, "exhaustive"),
    "lateweave": ("lateweave_packed", "scorers", "exhaustive"),
    "fast-plaid": ("fast_plaid_index", "plaid", "peer"),
    "xtr-warp-rs": ("xtr_warp_index", "plaid", "peer"),
    "faiss IVF-PQ + refine": ("faiss_refine", None, "peer"),
    "bm25 + MaxSim": ("bm25_rerank", None, "baseline"),
    "dense HNSW + MaxSim": ("dense_rerank", None, "baseline"),
    "fastlane 4 bits": ("fastlane", None, "ours"),
    "fastlane 2 bits": ("fastlane_two_bits", None, "ours"),
    "fastlane 4 bits, third": ("fastlane_third", None, "ours"),
}
"""The first engine is the reference for all others."""


def load(module: str) -> Engine:
    """The engine of a module of side_by_side.engines, or of another module that defines `engine`.

    Raises:
        ImportError: the module, or a package that it needs, is not installed.
    """
    name = module if "." in module else f"side_by_side.engines.{module}"
    engine: Engine = importlib.import_module(name).engine()
    return engine
