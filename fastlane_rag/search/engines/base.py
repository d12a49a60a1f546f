"""What an engine does for the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from numpy.typing import NDArray

from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.state import SearchState
from fastlane_rag.search.vectors import Multiplier
from fastlane_rag.storage.snapshot import Mask

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Engine", "Scan", "Scanned"]


@dataclass(frozen=True, slots=True)
class Scan:
    """What is to be found for a batch of queries.

    Attributes:
        gathering: (k, dim) float32 of each query: compared with every document.
        refining: (L, dim) float32 of each query: compared with the candidates; None where the first scores count.
        allowed: (N,) documents that may be found; None for all.
        depth: candidates of each query; documents that tie with the last one are candidates as well.
        also: numbers of documents that are candidates in any case, of each query; all of them are allowed.
    """

    gathering: Sequence[torch.Tensor]
    refining: Sequence[torch.Tensor] | None
    allowed: Mask | None
    depth: int
    also: Sequence[NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was found for one query.

    Attributes:
        numbers: (C,) the candidates, ascending.
        scores: (C,) float32.
        own: candidates that did not come from `also` alone.
        gathered: document tokens that each gathering token was compared with.
        refined: document tokens that each refining token was compared with.
        gathering_ms: the query's share of the time, in milliseconds.
        refining_ms: the same of the refinement; 0 where an engine does both at once.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    own: int
    gathered: int
    refined: int
    gathering_ms: float
    refining_ms: float


class Engine(Multiplier, Protocol):
    """Compares some tokens of queries with all documents, and all tokens with the best of these."""

    @property
    def scans_all(self) -> bool:
        """Whether a scan is faster than any lane that gathers."""
        ...

    def together(self, policy: SearchPolicy, documents: int) -> int:
        """How many queries to scan an index of so many documents for at once, at least 1."""
        ...

    def scan(self, state: SearchState, asked: Scan) -> list[Scanned]:
        """Find the candidates of each query, with their scores.

        Args:
            state: of the commit to search.
            asked: at least one query.
        """
        ...
