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
        rows = self._rows(documents, offsets, selection)
        if self._compiled is not None:
            return self._compiled.scores(documents, *rows)
        found = maxsim(self._query, documents, document_offsets=offsets, selection=selection)
        result: NDArray[np.float32] = found.numpy()[0]
        return result

    def near_scores(
        self,
        documents: Codes,
        offsets: NDArray[np.int64],
        selection: NDArray[np.int64],
        tokens: NDArray[np.int64],
        near: NDArray[np.bool_],
        least: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], int]:
        """SumMaxSim of some tokens of the query with those document rows whose centroid is near.

        Args:
            documents: packed rows in code, of the query's codebook.
            offsets: (N + 1,) int64: document r owns the rows offsets[r]:offsets[r + 1].
            selection: (n,) int64: the documents to score.
            tokens: (k,) int64, of the query.
            near: (K,) bool, the centroids.
            least: (k,) float32, of `products`: what a token scores where no row gives it more.

        Returns:
            (n,) float32, and how many rows counted.

        Raises:
            ValueError: the codebook is another one, or the offsets are wrong.
        """
        starts, lengths = self._rows(documents, offsets, selection)
        if self._compiled is not None:
            return self._compiled.near_scores(documents, starts, lengths, tokens, near, least)
        owners = np.repeat(np.arange(len(starts)), lengths)
        rows = np.arange(len(owners)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        counted = np.append(near, False)[np.minimum(documents.centroid_ids.numpy()[rows], len(near))]
        decoded = documents.decode(torch.from_numpy(rows[counted]))
        best = np.tile(least, (len(starts), 1))
        np.maximum.at(best, owners[counted], (decoded @ self._query[torch.from_numpy(tokens)].T.float()).numpy())
        return best.sum(axis=1), int(counted.sum())

    def _rows(
        self, documents: Codes, offsets: NDArray[np.int64], selection: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each document, and how many it has."""
        if documents.codebook is not self._codebook:
            raise ValueError("the documents' codebook is not the one that the query was made ready for")
        starts = offsets[selection]
        lengths = offsets[selection + 1] - starts
        if len(starts) and (starts.min() < 0 or lengths.min() < 0 or (starts + lengths).max() > len(documents)):
            raise ValueError(f"the offsets of the documents do not divide their {len(documents)} rows")
        return starts, lengths
