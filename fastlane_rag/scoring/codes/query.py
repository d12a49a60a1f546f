"""One query prepared to be scored against documents in code, several times without repeating work."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.codes.codebook import Codebook, Codes
from fastlane_rag.scoring.codes.documents import CodedDocuments
from fastlane_rag.scoring.native import kernels

__all__ = ["CodedQuery"]

_BLOCK_ROWS = 1 << 14  # decoded at once without the compiled kernels


class CodedQuery:
    """A query prepared for the documents of one codebook.

    Args:
        query: (L, d) float32, on the CPU.
        codebook: the codebook of the documents.

    Attributes:
        multiplied: centroids that the query was multiplied with: all for `products`, those of the documents alone
            where `scores` is asked before them.
    """

    def __init__(self, query: torch.Tensor, codebook: Codebook) -> None:
        self._codebook, self._rows = codebook, query.detach().float()
        self._compiles = kernels.available() and query.device.type == "cpu" and codebook.dim > 0
        self._whole: kernels.Query | None = None
        self.multiplied = 0

    @cached_property
    def products(self) -> NDArray[np.float32]:
        """(K, L or more) float32: dot product of each centroid and query token, minus a constant of the token."""
        if self._compiles:
            return self._for_all().products
        products: NDArray[np.float32] = (self._codebook.centroids @ self._rows.T).numpy()
        return products

    def scores(self, documents: CodedDocuments, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        """SumMaxSim with chosen documents.

        Args:
            documents: must have the query's codebook.
            numbers: (n,) int64, ascending: the documents to score.

        Returns:
            (n,) float32 scores, and how many rows these documents have.

        Raises:
            ValueError: the documents have another codebook, or their offsets are wrong.
        """
        self._check(documents)
        scores = np.empty((1, len(numbers)), np.float32)
        if self._compiles:
            where, tokens = documents.locate(numbers), len(self._rows)
            ready = self._whole or self._prepared(where)
            ready.score(where, kernels.Totals(np.array([0, tokens]), None, scores))
            return scores[0], where.rows
        met = 0
        for here, codes, starts, lengths in documents.by_pack(numbers):
            nothing = np.full((1, len(self._rows)), -np.inf, np.float32)
            scores[0, here] = self._best(codes, starts, lengths, self._rows, nothing).sum(1)
            met += int(lengths.sum())
        return scores[0], met

    def near_scores(
        self,
        documents: CodedDocuments,
        numbers: NDArray[np.int64],
        tokens: int,
        near: NDArray[np.bool_],
        least: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], int]:
        """Re-score: SumMaxSim of the query's first tokens with the document rows whose centroid is near.

        Args:
            documents: must have the query's codebook.
            numbers: (n,) int64, ascending: the documents to score.
            tokens: how many query tokens, at least 1.
            near: (K,) bool, true for near centroids.
            least: (tokens,) float32, on the scale of `products`: the least that each token scores.

        Returns:
            (n,) float32 scores, and how many rows were compared.

        Raises:
            ValueError: the documents have another codebook, or their offsets are wrong.
        """
        self._check(documents)
        if self._compiles:
            return self._for_all().score_near(documents.locate(numbers), tokens, near, least)
        scores, counted = np.empty(len(numbers), np.float32), 0
        for here, codes, starts, lengths in documents.by_pack(numbers):
            ids = codes.centroid_ids.numpy()
            marks = np.append(near, False)[np.minimum(ids[_rows(starts, lengths)], len(near))]
            best = self._best(codes, starts, lengths, self._rows[:tokens], least[None], marks)
            scores[here] = best.sum(1)
            counted += int(marks.sum())
        return scores, counted

    def _for_all(self) -> kernels.Query:
        """The query multiplied with all centroids, once."""
        if self._whole is None:
            self._whole = self._prepared(None)
        return self._whole

    def _prepared(self, documents: kernels.Documents | None) -> kernels.Query:
        """The query for the kernels: for these documents, or for all."""
        ready = kernels.Query(self._rows.numpy(), self._codebook.for_kernels, documents)
        self.multiplied = ready.multiplied
        return ready

    def _best(
        self,
        codes: Codes,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        query: torch.Tensor,
        least: NDArray[np.float32],
        marks: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Each token's best product in each document, computed with torch.

        Args:
            codes: the rows of one pack.
            starts: (n,) first row of each document.
            lengths: (n,) rows of each document.
            query: (L, d) query tokens.
            least: (1, L), the least that each token scores.
            marks: (rows of all documents,) bool, true for rows to compare; None for all.

        Returns:
            (n, L) products.
        """
        best = np.repeat(least, len(starts), axis=0)
        rows, owners = _rows(starts, lengths), np.repeat(np.arange(len(starts)), lengths)
        if marks is not None:
            rows, owners = rows[marks], owners[marks]
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            products = (codes.decode(torch.from_numpy(rows[block])) @ query.T).numpy()
            firsts = np.flatnonzero(np.diff(owners[block], prepend=-1))
            here = owners[block][firsts]
            best[here] = np.maximum(best[here], np.maximum.reduceat(products, firsts, axis=0))
        return best

    def _check(self, documents: CodedDocuments) -> None:
        if documents.codebook is not self._codebook:
            raise ValueError("the documents' codebook is not the one that the query was made ready for")


def _rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers of documents, one document after the other."""
    count = int(lengths.sum())
    return np.arange(count) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
