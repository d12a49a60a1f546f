"""One query that meets documents in code several times: what depends on the query alone is computed once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring import cpu_backend
from fastlane_rag.scoring.codes import Codebook, Codes
from fastlane_rag.scoring.maxsim import maxsim

__all__ = ["CodedQuery"]


class CodedQuery:
    """A query made ready for the documents of one codebook.

    Args:
        query: (L, d) float32, on the CPU.
        codebook: what the documents' codes refer to.

    Attributes:
        products: (K, L or more) float32, the dot product of each centroid and query token, less some number of
            the query token.
    """

    def __init__(self, query: torch.Tensor, codebook: Codebook) -> None:
        self._query, self._codebook = query, codebook
        self._compiled = cpu_backend.coded_query(query, codebook)
        self.products: NDArray[np.float32] = (
            self._compiled.products if self._compiled else (codebook.centroids @ query.T).numpy()
        )

    def scores(self, documents: Codes, offsets: NDArray[np.int64], selection: NDArray[np.int64]) -> NDArray[np.float32]:
        """SumMaxSim with some documents.

        Args:
            documents: packed rows in code, of the query's codebook.
            offsets: (N + 1,) int64: document r owns the rows offsets[r]:offsets[r + 1].
            selection: (n,) int64: the documents to score.

        Returns:
            (n,) float32.

        Raises:
            ValueError: the codebook is another one, or the offsets are wrong.
        """
        if documents.codebook is not self._codebook:
            raise ValueError("the documents' codebook is not the one that the query was made ready for")
        if self._compiled is None:
            result: NDArray[np.float32] = maxsim(
                self._query, documents, document_offsets=offsets, selection=selection
            ).numpy()[0]
            return result
        starts, ends = offsets[selection], offsets[selection + 1]
        if (len(starts) and not 0 <= starts.min() <= ends.max() <= len(documents)) or (starts > ends).any():
            raise ValueError(f"the offsets of the documents do not divide their {len(documents)} rows")
        return self._compiled.scores(documents, starts, ends - starts)
