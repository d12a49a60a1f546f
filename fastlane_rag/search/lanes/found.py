"""What a lane found for one query."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found"]


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of one query, and what they cost.

    Attributes:
        numbers: (C,) the documents, ascending.
        scores: (C,) float32 SumMaxSim with all tokens of the query.
        added: candidates that came from `also` and were not gathered.
        gathered: comparisons spent on gathering.
        scored: comparisons spent on scoring with all tokens.
        scoring_seconds: wall-clock time of that scoring.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    added: int
    gathered: int
    scored: int
    scoring_seconds: float
