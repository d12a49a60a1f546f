"""What BM25 asks of a whole collection, which may be in several indexes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["WordStatistics"]


@dataclass(frozen=True, slots=True)
class WordStatistics:
    """The statistics of a collection that BM25 weighs words with. Those of several indexes add up.

    Attributes:
        documents: live documents.
        words: words of all of them together.
        having: for the number of each word that was asked for, how many documents have it.
    """

    documents: int = 0
    words: int = 0
    having: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: WordStatistics) -> WordStatistics:
        """The statistics of both, which must be asked for the same words."""
        having = Counter(self.having)
        having.update(other.having)
        return WordStatistics(self.documents + other.documents, self.words + other.words, dict(having))
