"""Documents in code, in several packs of one codebook, such as the segments of an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.scoring.codes.codebook import Codes
from fastlane_rag.scoring.native import kernels

__all__ = ["CodedDocuments"]


class CodedDocuments:
    """Documents of one codebook in several packs, such as the segments of an index, on the CPU.

    Args:
        packs: the rows of each pack in code, and its (N + 1,) int64 offsets: document r owns the rows
            offsets[r]:offsets[r + 1].
        firsts: the number of each pack's first document, ascending: document r of pack p has the number
            firsts[p] + r. Numbers between packs may belong to no document.

    Raises:
        ValueError: there is no pack, or the packs have different codebooks.
    """

    def __init__(self, packs: Sequence[tuple[Codes, NDArray[np.int64]]], firsts: Sequence[int]) -> None:
        if not packs or any(codes.codebook is not packs[0][0].codebook for codes, _ in packs):
            raise ValueError("coded documents take one pack or more, all of one codebook")
        self.codebook = packs[0][0].codebook
        self.packs = [(codes, np.ascontiguousarray(offsets, np.int64)) for codes, offsets in packs]
        self.firsts = np.array(firsts, np.int64)
        self.counts = np.array([len(offsets) - 1 for _, offsets in packs], np.int64)
        rows = np.array([len(codes) for codes, _ in packs], np.int64)
        offsets_at = np.array([offsets.ctypes.data for _, offsets in self.packs], np.int64)
        arrays_at = np.array([codes.addresses for codes, _ in packs], np.int64)
        self._compiled = kernels.Packs(self.firsts, self.counts, offsets_at, rows, arrays_at)

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool: which of these numbers, (n,) int64, are documents here."""
        pack = np.searchsorted(self.firsts, numbers, side="right") - 1
        found: NDArray[np.bool_] = (pack >= 0) & (numbers - self.firsts[pack] < self.counts[pack])
        return found

    def locate(self, numbers: NDArray[np.int64]) -> kernels.Documents:
        """Locate documents, given as ascending numbers, for the compiled kernels.

        Raises:
            ValueError: there is no such document, or its offsets are wrong.
        """
        return self._compiled.locate(numbers)

    def by_pack(
        self, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[slice, Codes, NDArray[np.int64], NDArray[np.int64]]]:
        """Split ascending document numbers by pack: their slice, the pack's rows, and their starts and lengths.

        Raises:
            ValueError: there is no such document, or its offsets are wrong.
        """
        bounds = [*np.searchsorted(numbers, self.firsts), len(numbers)]
        if not self.has(numbers).all():
            raise ValueError("there is no such document")
        for p, (codes, offsets) in enumerate(self.packs):
            here = slice(bounds[p], bounds[p + 1])
            starts = offsets[numbers[here] - self.firsts[p]]
            lengths = offsets[numbers[here] - self.firsts[p] + 1] - starts
            if not len(starts):
                continue
            if starts.min() < 0 or lengths.min() < 0 or (starts + lengths).max() > len(codes):
                raise ValueError(f"the offsets of the documents do not divide their {len(codes)} rows")
            yield here, codes, starts, lengths
