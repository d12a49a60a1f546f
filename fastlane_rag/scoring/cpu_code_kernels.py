"""MaxSim over documents in code, compiled by numba: walks documents in tiles (see cpu_code_tile)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastlane_rag.scoring import cpu_code_tile
from fastlane_rag.scoring.cpu_code_tile import expand_8, expand_16, expand_byte, prefetch_line
from fastlane_rag.scoring.cpu_compile import compiled, part
from fastlane_rag.scoring.cpu_ir import TILE_ROWS
from fastlane_rag.scoring.cpu_kernels import sum_queries

__all__ = ["match_codes", "score_codes", "score_near"]

_AHEAD = 16  # documents


def _make_scan(name: str, tile: Callable[..., None], row: Callable[..., None]) -> Callable[..., None]:
    @part(name)
    def scan(
        granules: tuple[int, ...],
        levels: int,
        count: int,
        words: int,
        ids: int,
        scales: int,
        query: int,
        table: int,
        units: int,
        best: int,
        where: int,
    ) -> None:
        """Raise `best` over a document of `count` rows."""
        if count < TILE_ROWS:
            for r in range(count):
                row(
                    granules, levels + r * words * 4, words, ids + r * 2, scales + r * 4,
                    query, table, units, best, where, r,
                )  # fmt: skip
            return
        for r in range(0, count, TILE_ROWS):
            # The last tile reaches back over rows already seen: a maximum does not mind.
            first = min(r, count - TILE_ROWS)
            tile(
                granules, levels + first * words * 4, words, ids + first * 2, scales + first * 4,
                query, table, units, best, where, first,
            )  # fmt: skip

    return scan


_scan_max = _make_scan("scan_max", cpu_code_tile.code_tile_max, cpu_code_tile.code_row_max)
_scan_argmax = _make_scan("scan_argmax", cpu_code_tile.code_tile_argmax, cpu_code_tile.code_row_argmax)


@njit(nogil=True)
def _unpack_row(source: int, target: int, width: int, bits: int, dim: int) -> None:
    """Write the levels of one row."""
    mask = (1 << bits) - 1
    for plane in range(8 // bits):
        count = min(width, dim - plane * width)
        if count >= 16:
            expand_16(source, target + plane * width, count, plane * bits, mask)
        elif count >= 8:
            expand_8(source, target + plane * width, count, plane * bits, mask)
        elif count > 0:
            expand_byte(source, target + plane * width, count, plane * bits, mask)


@njit(nogil=True)
def _unpack(
    residuals: NDArray[np.uint8],
    ids: NDArray[np.uint16],
    scales: NDArray[np.uint8],
    bits: int,
    dim: int,
    centroids: int,
    first: int,
    levels: NDArray[np.uint8],
    factors: NDArray[np.float32],
) -> bool:
    """Write the levels and scales of the rows from `first` on; false if a centroid does not exist."""
    fits = True
    for r in range(len(levels)):
        fits &= ids[first + r] < centroids
        factors[r] = np.float32(scales[first + r] + 128) * np.float32(1 / 256)
        _unpack_row(residuals[first + r].ctypes.data, levels[r].ctypes.data, residuals.shape[1], bits, dim)
    return fits


@compiled
def score_codes(
    first: int,
    last: int,
    granules: tuple[int, ...],
    residuals: NDArray[np.uint8],
    ids: NDArray[np.uint16],
    scales: NDArray[np.uint8],
    bits: int,
    dim: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    query_bytes: NDArray[np.int8],
    tables: NDArray[np.float32],
    units: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Score queries against documents in code.

    Args:
        first: number of the first document to score.
        last: number after the last one.
        granules: its length times GRANULE is C, the tokens of a query tile.
        residuals: (T, W) packed levels of all rows.
        ids: (T,) their centroids.
        scales: (T,) their scales.
        bits: of a level.
        dim: of the rows.
        starts: (n,) first row of each document.
        lengths: (n,) rows of each document.
        query_bytes: (tiles, words, C, 4): query times steps, in units of the token.
        tables: (tiles, K, C): query times centroid, less query times steps times the middle level.
        units: (tiles, C): what one step of a query byte is worth.
        query_offsets: (Nq + 1,) tokens of each query.
        weights: (Tq,) factor of each query token.
        scores: (Nq, n), written; NaN for a document with a centroid that does not exist.
    """
    tiles, words, width, _ = query_bytes.shape
    best = np.empty((tiles, width), np.float32)
    longest = lengths[first:last].max()
    levels, factors = np.zeros((longest, words * 4), np.uint8), np.empty(longest, np.float32)
    for n in range(first, last):
        if lengths[n] == 0:
            scores[:, n] = -np.inf
            continue
        if not _unpack(residuals, ids, scales, bits, dim, tables.shape[1], starts[n], levels[: lengths[n]], factors):
            scores[:, n] = np.nan
            continue
        best[:] = -np.inf
        for t in range(tiles):
            _scan_max(
                granules, levels.ctypes.data, lengths[n], words, ids[starts[n] :].ctypes.data,
                factors.ctypes.data, query_bytes[t].ctypes.data, tables[t].ctypes.data,
                units[t].ctypes.data, best[t].ctypes.data, best[t].ctypes.data,
            )  # fmt: skip
        sum_queries(best.ravel(), query_offsets, weights, scores, n)


@compiled
def score_near(
    first: int,
    last: int,
    granules: tuple[int, ...],
    residuals: NDArray[np.uint8],
    ids: NDArray[np.uint16],
    scales: NDArray[np.uint8],
    bits: int,
    dim: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    query_bytes: NDArray[np.int8],
    tables: NDArray[np.float32],
    units: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    near: NDArray[np.uint8],
    floors: NDArray[np.float32],
    scores: NDArray[np.float32],
    met: NDArray[np.int64],
) -> None:
    """Score queries against those rows of documents whose centroid is near.

    Args as `score_codes`, and:
        near: (65,536,) 1 at the centroids whose rows count, else 0.
        floors: (tiles, C): what a token scores where no row gives it more.
        met: (n,), written: rows of each document that are near.
    """
    tiles, words, width, _ = query_bytes.shape
    best = np.empty((tiles, width), np.float32)
    longest = max(lengths[first:last].max(), TILE_ROWS)
    levels, factors = np.zeros((longest, words * 4), np.uint8), np.empty(longest, np.float32)
    chosen, rows = np.empty(longest, np.uint16), np.empty(longest * _AHEAD + 1, np.int64)
    for block in range(first, last, _AHEAD):
        # Near rows lie far apart: those of a few documents are asked for before the first is read.
        end, total = min(block + _AHEAD, last), 0
        for n in range(end, min(end + _AHEAD, last)):
            for r in range(starts[n], starts[n] + lengths[n], 32):
                prefetch_line(ids.ctypes.data + 2 * r)
        for n in range(block, end):
            before = total
            for r in range(starts[n], starts[n] + lengths[n]):  # without a branch: most rows are not near
                rows[total] = r
                total += near[ids[r]]
            met[n] = total - before
            for i in range(before, total):
                prefetch_line(residuals.ctypes.data + rows[i] * residuals.shape[1])
                prefetch_line(scales.ctypes.data + rows[i])
        total = 0
        for n in range(block, end):
            # A tile takes about as long as two rows, so more than two are repeated to fill it.
            count = max(met[n], TILE_ROWS) if met[n] > 2 else met[n]
            for i in range(count):
                r = rows[total + min(i, met[n] - 1)]
                chosen[i] = ids[r]
                factors[i] = np.float32(scales[r] + 128) * np.float32(1 / 256)
                _unpack_row(residuals[r].ctypes.data, levels[i].ctypes.data, residuals.shape[1], bits, dim)
            total += met[n]
            best[:] = floors
            for t in range(tiles):
                _scan_max(
                    granules, levels.ctypes.data, count, words, chosen.ctypes.data, factors.ctypes.data,
                    query_bytes[t].ctypes.data, tables[t].ctypes.data, units[t].ctypes.data,
                    best[t].ctypes.data, best[t].ctypes.data,
                )  # fmt: skip
            sum_queries(best.ravel(), query_offsets, weights, scores, n)


@compiled
def match_codes(
    first: int,
    last: int,
    granules: tuple[int, ...],
    residuals: NDArray[np.uint8],
    ids: NDArray[np.uint16],
    scales: NDArray[np.uint8],
    bits: int,
    dim: int,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    query_bytes: NDArray[np.int8],
    tables: NDArray[np.float32],
    units: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    scores: NDArray[np.float32],
    values: NDArray[np.float32],
    argmax: NDArray[np.int64],
) -> None:
    """Score, and tell each query token's best row in each document.

    Args as `score_codes`, and:
        values: (n, Tq), written: the maxima, -inf for a document without rows.
        argmax: (n, Tq), written: the packed rows they come from, -1 for a document without rows.
    """
    tiles, words, width, _ = query_bytes.shape
    best, where = np.empty((tiles, width), np.float32), np.empty((tiles, width), np.int32)
    longest = lengths[first:last].max()
    levels, factors = np.zeros((longest, words * 4), np.uint8), np.empty(longest, np.float32)
    for n in range(first, last):
        empty = lengths[n] == 0
        if empty or not _unpack(
            residuals, ids, scales, bits, dim, tables.shape[1], starts[n], levels[: lengths[n]], factors
        ):
            scores[:, n] = -np.inf if empty else np.nan
            values[n] = -np.inf if empty else np.nan
            argmax[n] = -1
            continue
        best[:] = -np.inf
        for t in range(tiles):
            _scan_argmax(
                granules, levels.ctypes.data, lengths[n], words, ids[starts[n] :].ctypes.data,
                factors.ctypes.data, query_bytes[t].ctypes.data, tables[t].ctypes.data,
                units[t].ctypes.data, best[t].ctypes.data, where[t].ctypes.data,
            )  # fmt: skip
        sum_queries(best.ravel(), query_offsets, weights, scores, n)
        for i in range(values.shape[1]):
            values[n, i] = best.ravel()[i]
            argmax[n, i] = starts[n] + where.ravel()[i]
