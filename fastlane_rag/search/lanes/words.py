"""The lane of words: the documents that share words with the query, by BM25. No model encodes its queries."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["NotEncoded"]


@dataclass(slots=True)
class NotEncoded:
    """An `EncodedQuery` without tokens: stands for a query that no model has encoded."""

    tokens: list[str] = field(default_factory=list)
    embeddings: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    @property
    def scores(self) -> torch.Tensor:
        """(0,) float32."""
        return torch.zeros(0)

    @property
    def weights(self) -> torch.Tensor:
        """(0,) float32."""
        return torch.zeros(0)

    def select(self, k: object, *, ordered: bool = True) -> torch.Tensor:
        """(0,) int64."""
        return torch.zeros(0, dtype=torch.int64)

    def in_context(self, k: int) -> bool:
        """False."""
        return False

    def compared(self, selected: torch.Tensor) -> torch.Tensor:
        """(0, 0) float32."""
        return self.embeddings

    def to_cpu(self) -> NotEncoded:
        """Itself."""
        return self
