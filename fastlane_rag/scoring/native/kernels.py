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
    "Packs",
    "Query",
    "Totals",
    "available",
    "best_rows",
    "code_rows",
    "cover",
    "level",
    "levels",
    "multiply_vectors",
    "nearest",
    "score_rows",
]

_N = TypeVar("_N", bound=np.generic)

_first_byte: Any = ctypes.c_char.from_buffer
_WORTH_A_THREAD = 4_000_000  # multiply-adds: fewer take less time than waking a thread that sleeps
_WORTH_CHOOSING = 2  # more rows than this for each centroid have nearly all of them
_FEW_NEAR = 16  # of so many rows one is near a query, or the walk over the others takes as long


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
        offsets: (Nq + 1,) int64 tokens of each query.
        weights: (Tq,) float32; None for 1.
        scores: (Nq, n) float32, written.
        matches: (n, Tq) float32 maxima and (n, Tq) int64 rows, written; None leaves them out.
    """

    def __init__(
        self,
        offsets: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
        scores: NDArray[np.float32],
        matches: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> None:
        self._kept = offsets, weights, scores, matches
        factors = None if weights is None else _address(weights)
        of_matches = [None, None] if matches is None else _addresses(*matches)
        self.structure = library.Totals(_address(offsets), len(offsets) - 1, factors, _address(scores), *of_matches)


class Documents:
    """Places of documents in code.

    Args:
        structure: that says it.
        rows: the sum of their lengths.
        kept: what the structure refers to.

    Attributes:
        count: how many documents.
    """

    def __init__(self, structure: library.Coded, rows: int, *kept: object) -> None:
        self.structure, self.rows, self._kept = structure, rows, kept
        self.count: int = structure.count

    @classmethod
    def of_pack(cls, pack: list[int], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Documents:
        """Documents of one pack.

        Args:
            pack: addresses of residuals, centroids and scales.
            starts: (n,) int64 first row of each document.
            lengths: (n,) int64 its rows.
        """
        kept = np.array(pack), np.zeros(len(starts), np.int64), _flat(starts), _flat(lengths)
        return cls(library.Coded(*_addresses(*kept), len(starts)), int(lengths.sum()), *kept)


class Packs:
    """Packs of documents in code, whose documents are numbered.

    Args:
        firsts: (P,) int64 number of each pack's first document, ascending.
        counts: (P,) int64 how many it has.
        offsets: (P,) int64 address of its (count + 1,) int64 offsets.
        rows: (P,) int64 how many rows it has.
        arrays: (P, 3) int64 addresses of its residuals, centroids and scales.
    """

    def __init__(
        self,
        firsts: NDArray[np.int64],
        counts: NDArray[np.int64],
        offsets: NDArray[np.int64],
        rows: NDArray[np.int64],
        arrays: NDArray[np.int64],
    ) -> None:
        self._kept = tuple(_flat(array) for array in (firsts, counts, offsets, rows, arrays))
        self._structure = library.Packs(*_addresses(*self._kept), len(firsts))

    def locate(self, numbers: NDArray[np.int64]) -> Documents:
        """Find where documents, (n,) ascending numbers, are.

        Raises:
            ValueError: a document is in no pack, or its offsets are not among the pack's rows.
        """
        numbers, found = _flat(numbers), library.Coded()
        where = np.empty((3, len(numbers)), np.int64)
        arrays = _address(numbers), len(numbers), _address(where)
        rows = _library().fastlane_locate(byref(self._structure), *arrays, byref(found))
        if rows < 0:
            raise ValueError("the offsets of the documents do not divide their rows, or there is no such document")
        return Documents(found, rows, self, where)


class Query:
    """A query's tokens prepared for the codes of a book.

    Args:
        rows: (L, dim) float32 tokens.
        book: the codebook.
        documents: that the query is for, where these are few: the centroids of their rows alone are multiplied.

    Attributes:
        products: (K, L or more) float32: dot product of each centroid and token, minus a constant of the token. Of
            centroids that were not multiplied it holds anything.
        multiplied: how many centroids were.
    """

    def __init__(self, rows: NDArray[np.float32], book: Book, documents: Documents | None = None) -> None:
        found, rows = _library(), _flat(rows)
        width = found.fastlane_width(len(rows))
        count = -(-len(rows) // width)
        self._book, self.tokens = book, len(rows)
        numbers = np.empty((count, book.words, width, 4), np.int8)
        both = np.empty((2, count, width), np.float32)  # units and middle
        tables = np.empty((count, book.centroids, width), np.float32)
        self._kept = numbers, both, tables
        units = _address(both)
        places = _address(numbers), units, units + both.nbytes // 2, _address(tables)
        self.structure = library.Query(len(rows), count, width, *places)
        some = documents if documents is not None and documents.rows < book.centroids * _WORTH_CHOOSING else None
        threads = _threads(book.centroids, (book.centroids if some is None else some.rows) * rows.size)
        known = byref(book.structure), _address(rows), byref(self.structure)
        asked = None if some is None else byref(some.structure)
        self.multiplied = _counted(found.fastlane_make_query(*known, asked, threads))
        self.products: NDArray[np.float32] = tables.transpose(1, 0, 2).reshape(book.centroids, -1)

    def score(self, documents: Documents, totals: Totals) -> None:
        """Score documents; a document with a centroid that does not exist scores NaN."""
        threads = _threads(documents.count, documents.rows * self.tokens * self._book.dim)
        structures = self._book, self, documents, totals
        _check(_library().fastlane_score_codes(*(byref(one.structure) for one in structures), threads))

    def score_near(
        self, documents: Documents, tokens: int, near: NDArray[np.bool_], least: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], int]:
        """Score the first tokens with those rows whose centroid is near.

        Args:
            documents: n documents.
            tokens: how many query tokens.
            near: (K,) bool, true for near centroids.
            least: (tokens,) float32, on the scale of `products`: the least that each token scores.

        Returns:
            (n,) scores, and how many rows are near.
        """
        scores = np.empty(documents.count, np.float32)
        near, least = _flat(near), np.ascontiguousarray(least, np.float32)
        threads = _threads(documents.count, documents.rows * tokens * self._book.dim // _FEW_NEAR)
        structures = (byref(one.structure) for one in (self._book, self, documents))
        arrays = _addresses(near, least, scores)
        return scores, _counted(_library().fastlane_score_near(*structures, tokens, *arrays, threads))


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


def code_rows(
    rows: NDArray[np.float32], nearest: NDArray[np.int64], base: NDArray[np.float32], book: Book
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Packed levels (T, row_bytes) and scales (T,) of rows.

    Args:
        rows: (T, dim).
        nearest: (T,) the centroid of each.
        base: (K, dim) the rows of level 0.
        book: what the codes refer to.
    """
    rows, nearest, base = _flat(rows), _flat(nearest), _flat(base)
    residuals, scales = np.empty((len(rows), book.structure.row_bytes), np.uint8), np.empty(len(rows), np.uint8)
    threads = _threads(len(rows), rows.size)
    known = byref(book.structure), *_addresses(base, rows, nearest)
    _check(_library().fastlane_code_rows(*known, len(rows), *_addresses(residuals, scales), threads))
    return residuals, scales


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
        scores, stamps, found = np.empty(total, np.float32), np.zeros(total, np.uint16), np.empty(total, np.int64)
        self._kept = blocks, scores, stamps, found, np.zeros(len(blocks), np.int64)
        self._walked = _address(blocks), len(blocks)
        self._room = _addresses(*self._kept[1:])

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
        found, centroids, gains = _library(), _flat(centroids), _flat(gains)
        mask = None if allowed is None else _address(allowed := _flat(allowed))
        lists = _address(centroids), _address(gains), *centroids.shape, mask
        total = _counted(found.fastlane_gather(*self._walked, *lists, *self._room, threads))
        documents, gathered = np.empty(total, np.int64), np.empty(total, np.float32)
        found.fastlane_collect(*self._walked, *self._room, every, _address(documents), _address(gathered))
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


def multiply_vectors(
    levels: NDArray[np.int8],
    scales: NDArray[np.float32],
    query: NDArray[np.int16],
    numbers: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Products of a vector with those at these numbers, all where None: scales[n] * (levels[n, :m] . query).

    Args:
        levels: (N, m or more); without a copy where they are C-contiguous.
        scales: (N,).
        query: (m,), no more than 2,047 either way, m at most 8,192.
        numbers: (n,) below N.
    """
    levels, scales, query = _flat(levels), _flat(scales), _flat(query)
    count = len(levels) if numbers is None else len(numbers)
    chosen = None if numbers is None else _address(numbers := _flat(numbers))
    products = np.empty(count, np.float32)
    threads = _threads(count, count * len(query))
    known = *_addresses(levels, scales, query), len(query), levels.shape[1], chosen, count
    _check(_library().fastlane_multiply_vectors(*known, _address(products), threads))
    return products


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
    """Where a C-contiguous array begins. By way of its buffer, in a quarter of the time that numpy takes to tell."""
    try:
        return ctypes.addressof(_first_byte(array))
    except (TypeError, ValueError):  # it may not be written, or has nothing
        return array.ctypes.data


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [_address(array) for array in arrays]


def _threads(count: int, multiply_adds: int) -> int:
    """Threads worth using for `count` independent parts with this many multiply-adds in all."""
    return max(1, min(get_threads(), count, multiply_adds // _WORTH_A_THREAD))


def _check(status: int) -> None:
    if status < 0:
        raise MemoryError("there is no memory left to score in: use fewer threads (fastlane_rag.scoring.set_threads)")


def _counted(status: int) -> int:
    """What a function counted, where it had the memory."""
    _check(status)
    return status
