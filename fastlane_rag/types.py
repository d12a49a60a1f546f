"""The small values that cross module borders."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: the document's id.
        score: SumMaxSim (or the routed score when not refined); higher is better.
        text: the document's text as it was added.
        metadata: the document's metadata, a copy the caller may change.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
