"""What every compared method offers."""

from dataclasses import dataclass
from typing import Protocol

METHODS = ("dense", "hnsw", "bm25", "full", "fastlane", "gather", "hybrid")
"""What can be compared; "fastlane" and "gather" once for each k."""

DEFAULT_METHODS = METHODS[:-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """One query answered.

    Attributes:
        ids: document ids, best first.
        encode_seconds: from the text to the query's vectors or words.
        search_seconds: from there to the ids.
        comparisons: dot products between a query vector and a document vector; None where there are none.
    """

    ids: list[str]
    encode_seconds: float
    search_seconds: float
    comparisons: float | None


class Method(Protocol):
    """A way to rank the corpus it was built over."""

    @property
    def name(self) -> str:
        """For tables and JSON."""
        ...

    @property
    def bytes_per_document(self) -> float | None:
        """What is stored to answer, over the number of documents; None where it is not kept on disk."""
        ...

    def answer(self, query: str, depth: int) -> Answer:
        """Rank at most `depth` documents for one query, alone, as a user's call would."""
        ...
