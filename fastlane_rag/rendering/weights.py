"""Router scores as shares of attention."""

import math
from collections.abc import Sequence

__all__ = ["shares"]


def shares(scores: Sequence[float]) -> list[float]:
    """The softmax of the router's scores."""
    highest = max(scores, default=0.0)
    powers = [math.exp(score - highest) for score in scores]
    return [power / math.fsum(powers) for power in powers]
