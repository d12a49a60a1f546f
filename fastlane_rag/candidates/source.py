"""What a database does for an index whose documents' vectors it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CandidateSource"]


class CandidateSource(Protocol):
    """A table of one vector a document, which finds the nearest by inner product.

    `fastlane_rag.candidates.pgvector.PgVector` and `fastlane_rag.candidates.qdrant.Qdrant` are two. All methods may be
    called from any thread, and raise CandidateSourceError where the database fails.
    """

    def upsert(self, ids: Sequence[str], vectors: NDArray[np.float32], versions: Sequence[str]) -> None:
        """Store documents, or replace them.

        Args:
            ids: of n documents.
            vectors: (n, m) float32.
            versions: short texts that change with the vectors, to be given back by `versions`.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents; those that are not there are ignored."""
        ...

    def versions(self) -> dict[str, str]:
        """The version of every document that is stored, by its id."""
        ...

    def candidates(self, vector: NDArray[np.float32], n: int, ids: Sequence[str] | None = None) -> list[str]:
        """The ids of the n documents of greatest inner product with a vector; approximately, where it has a graph.

        Args:
            vector: (m,) float32.
            n: how many at most.
            ids: only these may be found; None for all. Filters come as the ids that pass them, so that a filter means
                the same whatever the database.
        """
        ...
