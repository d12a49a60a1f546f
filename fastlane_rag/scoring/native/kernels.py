"""The compiled kernels as functions of arrays; `src/fastlane.h` documents what each computes.

Callers must check `available` first. Input arrays are copied where they are not C-contiguous; output arrays must be
C-contiguous.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.scoring.native import library
from fastlane_rag.scoring.threads import get_threads

__all__ = [
    "Book",
    "Documents",
    "Gathering",
    "Query",
    "Totals",
    "available",
    "best_rows",
    "cover",
    "level",
    "levels",
    "locate",
    "nearest",
    "score_rows",
]

_N = TypeVar("_N", bound=np.generic)

_WORTH_A_THREAD = 4_000_000  # multiply-adds; fewer take less time than waking a thread
_FEW_NEAR = 16  # estimated work: that of scoring one row in this many
_NEAR_MARKS = 1 << 16  # entries, so that any uint16 centroid of a damaged file stays inside the array


def available() -> bool:
    """Whether the compiled kernels run here; where they cannot, a warning says so once."""
    return library.library() is not None


def level() -> str:
    """The instruction set that the kernels use: "avx512vnni", "avx2", ...; "none" where no kernels run."""
    found = library.library()
    return found.fastlane_level().decode() if found else library.NONE


def levels() -> list[str]:
    """The instruction sets that the kernels can use on this processor, best first."""
    found = library.library()
    return found.fastlane_levels().decode().split(",") if found else []


class Book:
    """A codebook for the kernels.

    Args:
        levels: (K, 4 * words) uint8 levels of the centroids, rows padded with zeros to a multiple of four.
        center: (dim,) float32 center of those levels; see `codebook.to_bytes`.
        steps: (dim,) float32 distance between two of them.
        level_steps: (dim,) float32 distance between two levels of a residual.
        bits: bits of a residual's level.
        row_bytes: bytes of a row's residuals.
    """

    def __init__(
        self,
        levels: NDArray[np.uint8],
        center: NDArray[np.float32],
        steps: NDArray[np.float32],
        level_steps: NDArray[np.float32],
        bits: int,
        row_bytes: int,
    ) -> None:
        self._kept = _flat(level_steps), _flat(levels), _flat(center), _flat(steps)
        self.dim, self.words, self.centroids = len(steps), levels.shape[1] // 4, len(levels)
        fixed = self.dim, self.words, bits, row_bytes, self.centroids
        self.structure = library.Book(*fixed, *_addresses(*self._kept))


class Totals:
    """The output of a kernel: sums of token maxima for each query and document, and on demand the maxima.

    Args:
        offsets: (Nq + 1,) int64 offsets of the queries' tokens.
        weights: (Tq,) float32 factor of each token.
        scores: (Nq, n) float32, written.
        matches: (n, Tq) float32 maxima and (n, Tq) int64 rows, written; None leaves them out.
    """

    def __init__(
        self,
        offsets: NDArray[np.int64],
        weights: NDArray[np.float32],
        scores: NDArray[np.float32],
        matches: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> None:
        self._kept = offsets, weights, scores, matches
        of_matches = [None, None] if matches is None else _addresses(*matches)
        fixed = _address(offsets), len(offsets) - 1, _address(weights), _address(scores)
        self.structure = library.Totals(*fixed, *of_matches)


class Documents:
    """Places of documents in code.

    Args:
        packs: (P, 3) int64 addresses of each pack's residuals, centroids and scales.
        owners: (n,) int64 pack of each document.
        starts: (n,) int64 first row of each document in its pack.
        lengths: (n,) int64 rows of each document.
        rows: the sum of the lengths.
    """

    def __init__(
        self,
        packs: NDArray[np.int64],
        owners: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        rows: int,
    ) -> None:
        self._kept = _flat(packs), _flat(owners), _flat(starts), _flat(lengths)
        self.rows, self.count = rows, len(starts)
        self.structure = library.Coded(*_addresses(*self._kept), self.count)


class Query:
    """A query's tokens prepared for the codes of a book.

    Args:
        rows: (L, dim) float32 tokens.
        book: the codebook.

    Attributes:
        products: (K, L or more) float32: dot product of each centroid and token, minus a constant of the token.
    """

    def __init__(self, rows: NDArray[np.float32], book: Book) -> None:
        found = _library()
        count, width = library.tiles(found, len(rows))
        self._book, self.tokens = book, len(rows)
        numbers = np.empty((count, book.words, width, 4), np.int8)
        units, middle = np.empty((2, count, width), np.float32)
        tables = np.empty((count, book.centroids, width), np.float32)
        self._kept = numbers, units, middle, tables
        self.structure = library.Query(len(rows), count, width, *_addresses(*self._kept))
        threads = _threads(book.centroids, book.centroids * rows.size)
        rows = _flat(rows)
        _check(found.fastlane_make_query(byref(book.structure), _address(rows), byref(self.structure), threads))
        self.products: NDArray[np.float32] = tables.transpose(1, 0, 2).reshape(book.centroids, -1)

    def score(self, documents: Documents, totals: Totals) -> None:
        """Score documents; a document with a centroid that does not exist scores NaN."""
        threads = _threads(documents.count, documents.rows * self.tokens * self._book.dim)
        structures = self._book, self, documents, totals
        _check(_library().fastlane_score_codes(*(byref(one.structure) for one in structures), threads))

    def score_near(
        self, documents: Documents, tokens: int, near: NDArray[np.bool_], least: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score the first tokens against the rows whose centroid is near.

        Args:
            documents: n documents.
            tokens: how many query tokens.
            near: (K,) bool, true for near centroids.
            least: (tokens,) float32, on the scale of `products`: the least that each token scores.

        Returns:
            (n,) scores, and (n,) near rows of each document.
        """
        scores, met = np.empty(documents.count, np.float32), np.zeros(documents.count, np.int64)
        marks = np.zeros(_NEAR_MARKS, np.uint8)
        marks[: len(near)] = near
        least = np.ascontiguousarray(least, np.float32)
        threads = _threads(documents.count, documents.rows * tokens * self._book.dim // _FEW_NEAR)
        structures = (byref(one.structure) for one in (self._book, self, documents))
        arrays = _addresses(marks, least, scores, met)
        _check(_library().fastlane_score_near(*structures, tokens, *arrays, threads))
        return scores, met


def score_rows(
    query: NDArray[np.float32],
    documents: int,
    dtype: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    totals: Totals,
) -> None:
    """Score query tokens (Tq, dim) against documents.

    Args:
        query: the tokens of all queries.
        documents: address of (T, dim) rows.
        dtype: 0 for float32, 1 for float16, 2 for bfloat16 rows.
        starts: (n,) first row of each document.
        lengths: (n,) rows of each document.
        totals: the output.
    """
    query, starts, lengths = _flat(query), _flat(starts), _flat(lengths)
    threads = _threads(len(starts), int(lengths.sum()) * query.size)
    places = _address(starts), _address(lengths), len(starts)
    fixed = _address(query), *query.shape, documents, dtype, *places, byref(totals.structure), threads
    _check(_library().fastlane_score_rows(*fixed))


def nearest(rows: NDArray[np.float32], book: Book) -> NDArray[np.int64]:
    """(T,) int64: the centroid with the greatest product with each (T, dim) row, both rounded to bytes."""
    rows = _flat(rows)
    found = np.empty(len(rows), np.int64)
    threads = _threads(len(rows), rows.size * book.centroids)
    _check(_library().fastlane_nearest(byref(book.structure), _address(rows), len(rows), _address(found), threads))
    return found


def locate(
    numbers: NDArray[np.int64],
    firsts: NDArray[np.int64],
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    packs: NDArray[np.int64],
) -> Documents:
    """Find the places of documents in packs.

    Args:
        numbers: (n,) document numbers, ascending.
        firsts: (P,) number of each pack's first document, ascending.
        counts: (P,) documents of each pack.
        offsets: (P,) address of each pack's (count + 1,) int64 offsets.
        rows: (P,) rows of each pack.
        packs: (P, 3) addresses of each pack's arrays.

    Raises:
        ValueError: a document is in no pack, or its offsets exceed the pack's rows.
    """
    numbers = _flat(numbers)
    owners, starts, lengths = np.empty((3, len(numbers)), np.int64)
    known = _addresses(firsts, counts, offsets, rows)
    written = _addresses(owners, starts, lengths)
    total = _library().fastlane_locate(_address(numbers), len(numbers), *known, len(firsts), *written)
    if total < 0:
        raise ValueError("the offsets of the documents do not divide their rows, or there is no such document")
    return Documents(packs, owners, starts, lengths, int(total))


def best_rows(products: NDArray[np.float32], tokens: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(tokens, most) rows with the largest products in each of the first columns, descending, and the products."""
    rows, values = np.empty((tokens, most), np.int64), np.empty((tokens, most), np.float32)
    products = _flat(products)
    fixed = _address(products), *products.shape, tokens, most, _address(rows), _address(values)
    _check(_library().fastlane_best_rows(*fixed))
    return rows, values


class Gathering:
    """Blocks of documents for postings scans, and buffers for one scan.

    Args:
        blocks: (B, 8) int64, laid out as `fastlane_block`.
        total: N, one more than the largest document number.
    """

    def __init__(self, blocks: NDArray[np.int64], total: int) -> None:
        self._blocks = blocks
        self._scores = np.empty(total, np.float32)
        self._stamps = np.zeros(total, np.uint16)
        self._found = np.empty(total, np.int64)

    def gather(
        self,
        centroids: NDArray[np.int64],
        gains: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None,
        every: float,
        threads: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scan the posting lists of the best centroids of each token.

        Args:
            centroids: (k, n) centroids to probe for each token, best first; k is below 65,536.
            gains: (k, n) what each centroid adds to a document's score.
            allowed: (N,) bool, true for documents that may be found; None for all.
            every: added to every score.
            threads: the most threads to use.

        Returns:
            The documents found, in no particular order, and their scores.
        """
        found, count = _library(), len(self._blocks)
        centroids, gains = _flat(centroids), _flat(gains)
        counts = np.zeros(count, np.int64)
        mask = None if allowed is None else _flat(allowed)
        walked = _address(centroids), _address(gains), *centroids.shape, None if mask is None else _address(mask)
        room = self._scores, self._stamps, self._found, counts
        blocks = _address(self._blocks), count
        _check(found.fastlane_gather(*blocks, *walked, *_addresses(*room), threads))
        total = int(counts.sum())
        documents, gathered = np.empty(total, np.int64), np.empty(total, np.float32)
        found.fastlane_collect(*blocks, *_addresses(*room), every, _address(documents), _address(gathered))
        return documents, gathered


def cover(similar: NDArray[np.float32], weights: NDArray[np.float32], limit: int) -> NDArray[np.bool_]:
    """Pick `limit` tokens that cover a document; see `fastlane_rag.model.stand_ins`. Returns (L,) bool.

    Args:
        similar: (L, L) similarities, symmetric and not negative.
        weights: (L,), 0 where a token may not be picked.
        limit: at most as many as may be picked.
    """
    similar, weights = _flat(similar), _flat(weights)
    picked = np.empty(len(weights), np.bool_)
    _check(_library().fastlane_cover(_address(similar), _address(weights), len(weights), limit, _address(picked)))
    return picked


def _library() -> ctypes.CDLL:
    found = library.library()
    if found is None:
        raise RuntimeError("there are no compiled kernels here; ask available() first")
    return found


def _flat(array: NDArray[_N]) -> NDArray[_N]:
    """The same array, C-contiguous."""
    flat: NDArray[_N] = np.ascontiguousarray(array)
    return flat


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [array.ctypes.data for array in arrays]


def _threads(count: int, multiply_adds: int) -> int:
    """Threads worth using for `count` independent parts with this many multiply-adds in all."""
    return max(1, min(get_threads(), count, multiply_adds // _WORTH_A_THREAD))


def _check(status: int) -> None:
    if status:
        raise MemoryError("there is no memory left to score in: use fewer threads (fastlane_rag.scoring.set_threads)")
