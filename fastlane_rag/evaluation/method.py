"""The interface of compared methods."""

from dataclasses import dataclass
from typing import Protocol

METHODS = ("dense", "hnsw", "bm25", "full", "weighted", "fastlane", "gather", "hybrid")
"""Names of the methods; "fastlane" and "gather" are run once for each k."""

DEFAULT_METHODS = METHODS[:-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query.

    Attributes:
        ids: document ids, best first.
        encode_seconds: time from the text to the query's vectors or words.
        search_seconds: time from those to the ids.
        comparisons: dot products between a query vector and a document vector; None for a method without.
    """

    ids: list[str]
    encode_seconds: float
    search_seconds: float
    comparisons: float | None


class Method(Protocol):
    """A way to rank the corpus it was built over."""

    @property
    def name(self) -> str:
        """The name in tables and JSON."""
        ...

    @property
    def bytes_per_document(self) -> float | None:
        """Bytes stored for searching, per document; None for a method that stores nothing on disk."""
        ...

    def answer(self, query: str, depth: int) -> Answer:
        """Rank at most `depth` documents for one query, as one call of a user."""
        ...
