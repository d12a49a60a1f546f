"""One query that meets documents in code several times: what depends on the query alone is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring import cpu_backend
from fastlane_rag.scoring.api import maxsim
from fastlane_rag.scoring.codes import Codebook, Codes

__all__ = ["CodedDocuments", "CodedQuery"]

_OfPack = Callable[[Codes, NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float32], int]]


class CodedDocuments:
    """Documents of one codebook in several packs, as the segments of an index are, on the CPU.

    Args:
        packs: the rows of each in code, and its (N + 1,) int64 offsets: document r owns the rows
            offsets[r]:offsets[r + 1].
        firsts: the number of each pack's first document, ascending: document r of pack p is number firsts[p] + r.
            Numbers between packs may belong to no document.

    Raises:
        ValueError: there is no pack, or they are of several codebooks.
    """

    def __init__(self, packs: Sequence[tuple[Codes, NDArray[np.int64]]], firsts: Sequence[int]) -> None:
        if not packs or any(codes.codebook is not packs[0][0].codebook for codes, _ in packs):
            raise ValueError("coded documents take one pack or more, all of one codebook")
        self.codebook = packs[0][0].codebook
        self.packs = [(codes, np.ascontiguousarray(offsets, np.int64)) for codes, offsets in packs]
        self.firsts = np.array(firsts, np.int64)
        self.counts = np.array([len(offsets) - 1 for _, offsets in packs], np.int64)
        self.rows = np.array([len(codes) for codes, _ in packs], np.int64)
        self.offset_addresses = np.array([offsets.ctypes.data for _, offsets in self.packs], np.int64)
        self.addresses = np.array([codes.addresses for codes, _ in packs], np.int64)

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these numbers, (n,) int64, are documents here."""
        pack = np.searchsorted(self.firsts, numbers, side="right") - 1
        found: NDArray[np.bool_] = (pack >= 0) & (numbers - self.firsts[pack] < self.counts[pack])
        return found

    def by_pack(self, numbers: NDArray[np.int64], score: _OfPack) -> tuple[NDArray[np.float32], int]:
        """Scores of documents, ascending, from what gives them for one pack's rows, starts and lengths."""
        bounds = [*np.searchsorted(numbers, self.firsts), len(numbers)]
        scores, met = np.empty(len(numbers), np.float32), 0
        for p, (codes, offsets) in enumerate(self.packs):
            here = slice(bounds[p], bounds[p + 1])
            starts = offsets[numbers[here] - self.firsts[p]]
            lengths = offsets[numbers[here] - self.firsts[p] + 1] - starts
            if len(starts) and (starts.min() < 0 or lengths.min() < 0 or (starts + lengths).max() > len(codes)):
                raise ValueError(f"the offsets of the documents do not divide their {len(codes)} rows")
            scores[here], counted = score(codes, starts, lengths)
            met += counted
        return scores, met


class CodedQuery:
    """A query made ready for the documents of one codebook.

    Args:
        query: (L, d) float32, on the CPU.
        codebook: what the documents' codes refer to.
    """

    def __init__(self, query: torch.Tensor, codebook: Codebook) -> None:
        self._query, self._codebook = query, codebook
        self._compiled = cpu_backend.coded_query(query, codebook)

    @cached_property
    def products(self) -> NDArray[np.float32]:
        """(K, L or more) float32: dot products of each centroid and query token, less some number of the token."""
        return self._compiled.products if self._compiled else (self._codebook.centroids @ self._query.T).numpy()

    def scores(self, documents: CodedDocuments, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        """SumMaxSim with some documents.

        Args:
            documents: of the query's codebook.
            numbers: (n,) int64, ascending: the documents to score.

        Returns:
            (n,) float32, and how many rows these documents have.

        Raises:
            ValueError: the codebook is another one, or the offsets are wrong.
        """
        self._check(documents)
        if self._compiled is not None:
            return self._compiled.scores(documents, numbers)

        def score(
            codes: Codes, starts: NDArray[np.int64], lengths: NDArray[np.int64]
        ) -> tuple[NDArray[np.float32], int]:
            rows, _ = _rows(starts, lengths)
            decoded = codes.decode(torch.from_numpy(rows))
            return maxsim(self._query, decoded, document_offsets=np.cumsum([0, *lengths])).numpy()[0], len(rows)

        return documents.by_pack(numbers, score)

    def near_scores(
        self,
        documents: CodedDocuments,
        numbers: NDArray[np.int64],
        tokens: int,
        near: NDArray[np.bool_],
        least: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], int]:
        """SumMaxSim of the query's first tokens with those document rows whose centroid is near.

        Args:
            documents: of the query's codebook.
            numbers: (n,) int64, ascending: the documents to score.
            tokens: how many, at least 1.
            near: (K,) bool, the centroids.
            least: (tokens,) float32, of `products`: what a token scores where no row gives it more.

        Returns:
            (n,) float32, and how many rows counted.

        Raises:
            ValueError: the codebook is another one, or the offsets are wrong.
        """
        self._check(documents)
        if self._compiled is not None:
            return self._compiled.near_scores(documents, numbers, tokens, near, least)

        def score(
            codes: Codes, starts: NDArray[np.int64], lengths: NDArray[np.int64]
        ) -> tuple[NDArray[np.float32], int]:
            rows, owners = _rows(starts, lengths)
            counted = np.append(near, False)[np.minimum(codes.centroid_ids.numpy()[rows], len(near))]
            decoded = codes.decode(torch.from_numpy(rows[counted]))
            best = np.tile(least, (len(starts), 1))
            products = (decoded @ self._query[:tokens].T.float()).numpy()
            np.maximum.at(best, owners[counted], products)
            return best.sum(axis=1), int(counted.sum())

        return documents.by_pack(numbers, score)

    def _check(self, documents: CodedDocuments) -> None:
        if documents.codebook is not self._codebook:
            raise ValueError("the documents' codebook is not the one that the query was made ready for")


def _rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of documents one after the other, and which document each is of."""
    owners = np.repeat(np.arange(len(starts)), lengths)
    return np.arange(len(owners)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths), owners
