"""MaxSim over packed documents, compiled by numba: walks documents in tiles (see cpu_tile).

Kernels hold no Python lock, start no threads and keep no state, so any number of threads may run them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastlane_rag.scoring import cpu_tile
from fastlane_rag.scoring.cpu_compile import compiled, part
from fastlane_rag.scoring.cpu_ir import TILE_ROWS
from fastlane_rag.scoring.cpu_tile import widen

__all__ = ["BFLOAT16", "FLOAT16", "FLOAT32", "match_documents", "score_documents", "sum_queries"]

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2


def _make_scan(name: str, tile: Callable[..., None], row: Callable[..., None]) -> Callable[..., None]:
    @part(name)
    def scan(
        granules: tuple[int, ...],
        address: int,
        count: int,
        dim: int,
        query: int,
        best: int,
        where: int,
        ahead: int,
        ahead_bytes: int,
    ) -> None:
        """Raise `best` over a document of `count` float32 rows at `address`.

        While the document is scored, what lies at `ahead` is prefetched: as many rows, of numbers of
        `ahead_bytes` bytes.
        """
        row_bytes = dim * 4
        if count < TILE_ROWS:
            for r in range(count):
                row(granules, address + r * row_bytes, row_bytes, query, dim, best, where, r, ahead, ahead_bytes)
            return
        for r in range(0, count, TILE_ROWS):
            # The last tile reaches back over rows already seen: a maximum does not mind.
            first = min(r, count - TILE_ROWS)
            tile(
                granules,
                address + first * row_bytes,
                row_bytes,
                query,
                dim,
                best,
                where,
                first,
                ahead + first * dim * ahead_bytes,
                ahead_bytes * TILE_ROWS,
            )

    return scan


_scan_max = _make_scan("scan_max", cpu_tile.tile_max, cpu_tile.row_max)
_scan_argmax = _make_scan("scan_argmax", cpu_tile.tile_argmax, cpu_tile.row_argmax)


@njit(nogil=True)
def _float_rows(address: int, dtype: int, numbers: int, panel: int) -> int:
    """Where the float32 rows of a document are: where they lie, or in `panel` after widening."""
    if dtype == FLOAT32:
        return address
    widen(address, panel, numbers, dtype == BFLOAT16)
    return panel


@njit(nogil=True)
def _what_comes_next(address: int, rows: int, dtype: int, dim: int, next_start: int) -> int:
    """Address to prefetch while a document is scored: two tiles on, or the next document to widen."""
    if dtype == FLOAT32:
        return address + 2 * TILE_ROWS * dim * 4
    return rows + next_start * dim * 2


@njit(nogil=True)
def sum_queries(
    best: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
    n: int,
) -> None:
    """Write document n's scores: weighted sums of the maxima (Tq,) of each query's tokens."""
    for q in range(len(query_offsets) - 1):
        total = 0.0
        for i in range(query_offsets[q], query_offsets[q + 1]):
            total += best[i] * weights[i]
        scores[q, n] = total


@compiled
def score_documents(
    first: int,
    last: int,
    granules: tuple[int, ...],
    rows: int,
    dtype: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    query_tiles: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Score queries against documents.

    Args:
        first: number of the first document to score.
        last: number after the last one.
        granules: its length times GRANULE is C, the tokens of a query tile.
        rows: address of the packed (T, dim) document rows, contiguous.
        dtype: FLOAT32, FLOAT16 or BFLOAT16, of the rows.
        starts: (n,) first row of each document.
        lengths: (n,) rows of each document.
        query_tiles: (tiles, dim, C), all query tokens in order, padded with zeros.
        query_offsets: (Nq + 1,) tokens of each query.
        weights: (Tq,) factor of each query token.
        scores: (Nq, n), written.
    """
    tiles, dim, width = query_tiles.shape
    item = 4 if dtype == FLOAT32 else 2
    best = np.empty(tiles * width, np.float32)
    panel = np.empty((0 if dtype == FLOAT32 else lengths[first:last].max(), dim), np.float32)
    for n in range(first, last):
        if lengths[n] == 0:
            scores[:, n] = -np.inf
            continue
        address = _float_rows(rows + starts[n] * dim * item, dtype, lengths[n] * dim, panel.ctypes.data)
        ahead = _what_comes_next(address, rows, dtype, dim, starts[min(n + 1, last - 1)])
        best[:] = -np.inf
        for t in range(tiles):
            target = best.ctypes.data + t * width * 4
            _scan_max(granules, address, lengths[n], dim, query_tiles[t].ctypes.data, target, target, ahead, item)
        sum_queries(best, query_offsets, weights, scores, n)


@compiled
def match_documents(
    first: int,
    last: int,
    granules: tuple[int, ...],
    rows: int,
    dtype: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    query_tiles: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
    values: NDArray[np.float32],
    argmax: NDArray[np.int64],
) -> None:
    """Score, and tell each query token's best row in each document.

    Args as `score_documents`, and:
        values: (n, Tq), written: the maxima, -inf for a document without rows.
        argmax: (n, Tq), written: the packed rows they come from, -1 for a document without rows.
    """
    tiles, dim, width = query_tiles.shape
    item = 4 if dtype == FLOAT32 else 2
    best = np.empty(tiles * width, np.float32)
    where = np.empty(tiles * width, np.int32)
    panel = np.empty((0 if dtype == FLOAT32 else lengths[first:last].max(), dim), np.float32)
    for n in range(first, last):
        if lengths[n] == 0:
            scores[:, n] = -np.inf
            values[n] = -np.inf
            argmax[n] = -1
            continue
        address = _float_rows(rows + starts[n] * dim * item, dtype, lengths[n] * dim, panel.ctypes.data)
        ahead = _what_comes_next(address, rows, dtype, dim, starts[min(n + 1, last - 1)])
        best[:] = -np.inf
        for t in range(tiles):
            _scan_argmax(
                granules,
                address,
                lengths[n],
                dim,
                query_tiles[t].ctypes.data,
                best.ctypes.data + t * width * 4,
                where.ctypes.data + t * width * 4,
                ahead,
                item,
            )
        sum_queries(best, query_offsets, weights, scores, n)
        for i in range(values.shape[1]):
            values[n, i] = best[i]
            argmax[n, i] = starts[n] + where[i]
