"""MaxSim over documents in code, compiled by numba: walks documents in tiles (see cpu_code_tile)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastlane_rag.scoring import cpu_code_tile
from fastlane_rag.scoring.cpu_code_tile import (
    code_tile_each,
    code_tile_products,
    expand_8,
    expand_16,
    expand_32,
    expand_64,
    expand_byte,
    load_1,
    load_2,
    load_8,
    prefetch_line,
)
from fastlane_rag.scoring.cpu_compile import compiled, part
from fastlane_rag.scoring.cpu_ir import TILE_ROWS
from fastlane_rag.scoring.cpu_kernels import sum_queries

__all__ = ["locate", "match_codes", "multiply", "narrow", "round_query", "score_codes", "score_near"]

_AHEAD = 16  # documents
_ROWS_AHEAD = 32  # asked for before they are read


@njit(nogil=True)
def _round(
    query: NDArray[np.float32],
    center: NDArray[np.float32],
    steps: NDArray[np.float32],
    middle: float,
    numbers: NDArray[np.int8],
    units: NDArray[np.float32],
    rest: NDArray[np.float32],
) -> None:
    """Round query times steps to a few bytes a dimension. Then query . (center + steps * (levels - middle)) is

        sum over p of units[p] * (numbers[p] . levels), + rest

    Taking the middle from the rounded bytes halves the error of rounding. A NaN in the query stays in the rest.

    Args:
        query: (Tq, dim).
        center: (dim,).
        steps: (dim,).
        middle: level.
        numbers: (P, tiles, words, C, 4), zeros; written for the tokens there are, the highest byte first.
        units: (P, tiles, C), zeros; written: what one step of a token's bytes is worth.
        rest: (tiles, C); added to.
    """
    width = numbers.shape[3]
    scaled = np.empty(len(steps), np.float32)
    for i in range(len(query)):
        tile, column = i // width, i % width
        largest, product = np.float32(0), np.float32(0)
        for d in range(len(steps)):
            scaled[d] = query[i, d] * steps[d]
            largest = max(largest, abs(scaled[d]))
            product += query[i, d] * center[d]
        unit = (largest if largest > 0 else np.float32(1)) / np.float32(127)
        for p in range(len(numbers)):
            total = 0
            for d in range(len(steps)):
                number = int(np.rint(scaled[d] / unit))
                numbers[p, tile, d // 4, column, d % 4] = number
                scaled[d] -= np.float32(number) * unit
                total += number
            units[p, tile, column] = unit
            product -= np.float32(middle) * unit * np.float32(total)
            unit /= np.float32(254)  # what is left is half a unit at most
        rest[tile, column] += product


@compiled
def round_query(
    query: NDArray[np.float32],
    tiles: int,
    width: int,
    level_steps: NDArray[np.float32],
    middle: float,
    center: NDArray[np.float32],
    steps: NDArray[np.float32],
) -> tuple[
    NDArray[np.int8],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.int8],
    NDArray[np.float32],
    NDArray[np.float32],
]:
    """Round a query as it meets levels, to a byte a dimension, and as it meets centroids in bytes, to two: they come in
    steps as wide as many of a residual's.

    Args:
        query: (Tq, dim).
        tiles: so many.
        width: C, of a tile.
        level_steps: (dim,) of the levels.
        middle: level.
        center: (dim,) of the centroids' 256 levels.
        steps: (dim,) of them.

    Returns:
        For the levels numbers (1, tiles, words, C, 4), units (1, tiles, C), and the product with their middle (tiles,
        C). For the centroids the same of two bytes, but what to add to all products with them, less the former.
    """
    words = (query.shape[1] + 3) // 4
    numbers, units = np.zeros((1, tiles, words, width, 4), np.int8), np.zeros((1, tiles, width), np.float32)
    of_middle, rest = np.zeros((tiles, width), np.float32), np.zeros((tiles, width), np.float32)
    _round(query, np.zeros(len(level_steps), np.float32), level_steps, middle, numbers, units, rest)
    for t in range(tiles):
        for c in range(width):
            of_middle[t, c] = -rest[t, c]
    of_centroids, their_units = np.zeros((2, tiles, words, width, 4), np.int8), np.zeros((2, tiles, width), np.float32)
    _round(query, center, steps, 127.5, of_centroids, their_units, rest)
    return numbers, units, of_middle, of_centroids, their_units, rest


@compiled
def multiply(
    first: int,
    last: int,
    granules: tuple[int, ...],
    levels: NDArray[np.uint8],
    numbers: NDArray[np.int8],
    units: NDArray[np.float32],
    rest: NDArray[np.float32],
    products: NDArray[np.float32],
) -> None:
    """Write the products of rows of bytes with query tokens.

    Args:
        first: number of the first row.
        last: number after the last one.
        granules: its length times GRANULE is C, the tokens of a query tile.
        levels: (K, 4 * words), K at least TILE_ROWS.
        numbers: (P, tiles, words, C, 4), as `round_query` gives them.
        units: (P, tiles, C), as well.
        rest: (tiles, C), added to all products of a token.
        products: (tiles, K, C), written.
    """
    tiles, words, width = numbers.shape[1:4]
    for t in range(tiles):
        for r in range(first, last, TILE_ROWS):
            start = max(0, min(r, last - TILE_ROWS))  # the last tile writes some rows again
            rows, target = levels[start].ctypes.data, products[t, start].ctypes.data
            more, more_step = rest[t].ctypes.data, 0
            for p in range(len(numbers)):
                query, unit = numbers[p, t].ctypes.data, units[p, t].ctypes.data
                code_tile_products(granules, rows, words, 0, 0, query, more, unit, target, more_step, 0)
                more, more_step = target, width * 4


@compiled
def locate(
    numbers: NDArray[np.int64],
    firsts: NDArray[np.int64],
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    owners: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> int:
    """Find where documents are.

    Args:
        numbers: (n,) the documents, ascending.
        firsts: (P,) number of each pack's first document, ascending.
        counts: (P,) how many it has.
        offsets: (P,) address of its (count + 1,) int64 offsets.
        rows: (P,) how many rows it has.
        owners: (n,), written: the pack of each document.
        starts: (n,), written: the first row of each document, in its pack.
        lengths: (n,), written: rows of each document.

    Returns:
        How many rows they have, -1 where a document is in no pack, or its offsets are not among the pack's rows.
    """
    p, total = 0, 0
    for i in range(len(numbers)):
        while p + 1 < len(firsts) and numbers[i] >= firsts[p + 1]:
            p += 1
        document = numbers[i] - firsts[p]
        if document < 0 or document >= counts[p]:
            return -1
        first, last = load_8(offsets[p] + 8 * document), load_8(offsets[p] + 8 * document + 8)
        if first < 0 or last < first or last > rows[p]:
            return -1
        owners[i], starts[i], lengths[i] = p, first, last - first
        total += last - first
    return total


@njit(nogil=True)
def _unpack_rows(rows: int, width: int, bits: int, planes: int, dim: int, levels: int, padded: int) -> None:
    """Write the levels of a tile's rows, whose addresses are at `rows`.

    `planes` is 8 // bits, worked out by the caller once: a division for every tile would show.
    """
    mask = (1 << bits) - 1
    for plane in range(planes):
        start, shift = plane * width, plane * bits
        count = min(width, dim - start)
        if count >= 64:
            expand_64(rows, levels + start, padded, count, shift, mask)
        elif count >= 32:
            expand_32(rows, levels + start, padded, count, shift, mask)
        elif count >= 16:
            expand_16(rows, levels + start, padded, count, shift, mask)
        elif count >= 8:
            expand_8(rows, levels + start, padded, count, shift, mask)
        elif count > 0:
            expand_byte(rows, levels + start, padded, count, shift, mask)


@njit(nogil=True)
def _scale(address: int) -> np.float32:
    return np.float32(load_1(address) + 128) * np.float32(1 / 256)


def _make_scan(name: str, tile: Callable[..., None]) -> Callable[..., None]:
    @part(name)
    def scan(
        granules: tuple[int, ...],
        pack: NDArray[np.int64],
        row_bytes: int,
        bits: int,
        planes: int,
        dim: int,
        start: int,
        count: int,
        query_bytes: NDArray[np.int8],
        tables: NDArray[np.float32],
        units: NDArray[np.float32],
        room: tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float32]],
        best: NDArray[np.float32],
        where: NDArray[np.int32],
    ) -> bool:
        """Raise `best` over a document of `count` rows from `start` on; false if a centroid does not exist."""
        rows, chosen, levels, scales = room
        residuals_at, ids_at, scales_at = pack[0], pack[1], pack[2]
        words, table, step = query_bytes.shape[1], tables.ctypes.data, 4 * tables.shape[2]
        for first in range(0, count, TILE_ROWS):
            for i in range(TILE_ROWS):  # the last row fills the last tile: a maximum does not mind
                r = start + min(first + i, count - 1)
                centroid = load_2(ids_at + 2 * r)
                if centroid >= tables.shape[1]:
                    return False
                rows[i], chosen[i], scales[i] = residuals_at + r * row_bytes, centroid, _scale(scales_at + r)
                prefetch_line(rows[i] + _ROWS_AHEAD * row_bytes)
                prefetch_line(table + centroid * step)
            _unpack_rows(rows.ctypes.data, row_bytes, bits, planes, dim, levels.ctypes.data, levels.shape[1])
            for t in range(len(tables)):
                tile(
                    granules, levels.ctypes.data, words, chosen.ctypes.data, scales.ctypes.data,
                    query_bytes[t].ctypes.data, tables[t].ctypes.data, units[t].ctypes.data,
                    best[t].ctypes.data, where[t].ctypes.data, first,
                )  # fmt: skip
        return True

    return scan


_scan_max = _make_scan("scan_max", cpu_code_tile.code_tile_max)
_scan_argmax = _make_scan("scan_argmax", cpu_code_tile.code_tile_argmax)


@njit(nogil=True)
def _room(
    rows: int, words: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint8], NDArray[np.float32]]:
    """For the addresses and centroids of rows, and for the levels and scales of one tile."""
    levels = np.zeros((TILE_ROWS, words * 4), np.uint8)  # no row writes what pads the last word
    return np.empty(rows, np.int64), np.empty(rows, np.uint16), levels, np.empty(TILE_ROWS, np.float32)


@njit(nogil=True)
def _ask_for(pack: NDArray[np.int64], row_bytes: int, start: int, count: int) -> None:
    """Prefetch the first rows of the next document."""
    for r in range(start, start + count):
        prefetch_line(pack[0] + r * row_bytes)
    prefetch_line(pack[1] + 2 * start)
    prefetch_line(pack[2] + start)


@compiled
def score_codes(
    first: int,
    last: int,
    granules: tuple[int, ...],
    packs: NDArray[np.int64],
    row_bytes: int,
    bits: int,
    dim: int,
    owners: NDArray[np.int64],
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
        packs: (P, 3) addresses of each pack's residuals (T, row_bytes) uint8, centroids (T,) uint16 and scales (T,)
            uint8.
        row_bytes: of a row's residuals.
        bits: of a level.
        dim: of the rows.
        owners: (n,) pack of each document.
        starts: (n,) first row of each document, in its pack.
        lengths: (n,) rows of each document.
        query_bytes: (tiles, words, C, 4): query times steps, in units of the token.
        tables: (tiles, K, C): query times centroid, less query times steps times the middle level.
        units: (tiles, C): what one step of a query byte is worth.
        query_offsets: (Nq + 1,) tokens of each query.
        weights: (Tq,) factor of each query token.
        scores: (Nq, n), written; NaN for a document with a centroid that does not exist.
    """
    tiles, words, width, _ = query_bytes.shape
    best, nowhere = np.empty((tiles, width), np.float32), np.empty((tiles, 0), np.int32)
    room, planes = _room(TILE_ROWS, words), 8 // bits
    for n in range(first, last):
        if lengths[n] == 0:
            scores[:, n] = -np.inf
            continue
        best[:] = -np.inf
        if n + 1 < last:
            _ask_for(packs[owners[n + 1]], row_bytes, starts[n + 1], min(lengths[n + 1], _ROWS_AHEAD))
        if _scan_max(
            granules, packs[owners[n]], row_bytes, bits, planes, dim, starts[n], lengths[n],
            query_bytes, tables, units, room, best, nowhere,
        ):  # fmt: skip
            sum_queries(best.ravel(), query_offsets, weights, scores, n)
        else:
            scores[:, n] = np.nan


@compiled
def narrow(
    numbers: NDArray[np.int8],
    units: NDArray[np.float32],
    middle: NDArray[np.float32],
    least: NDArray[np.float32],
    tiles: int,
    width: int,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """A query's first tokens in tiles of their own.

    Args:
        numbers: (tiles or more, words, width or more, 4).
        units: (tiles or more, width or more).
        middle: likewise.
        least: (tokens,): what each scores at least, less the middle.
        tiles: so many.
        width: of a tile.

    Returns:
        numbers, units, and what each token scores at least.
    """
    floors = np.zeros((tiles, width), np.float32)
    for i in range(tiles * width):
        t, c = i // width, i % width
        floors[t, c] = middle[t, c] + (least[i] if i < len(least) else np.float32(0))
    return numbers[:tiles, :, :width].copy(), units[:tiles, :width].copy(), floors


@njit(nogil=True)
def _near_rows(
    ids: int, start: int, count: int, near: NDArray[np.uint8], rows: NDArray[np.int64], total: int
) -> np.int64:
    """Append the rows whose centroid is near to the first `total` of `rows`, and say how many these are.

    Few rows are near: the others are passed over eight at a time. Indexes are unsigned, for a signed one is checked
    for counting from the end.
    """
    r, found = start, np.uint64(total)
    while r < start + count:
        end = min(r + 8, start + count)
        if end - r == 8:
            some = near[np.uint64(load_2(ids + 2 * r))]
            for i in range(1, 8):
                some |= near[np.uint64(load_2(ids + 2 * r + 2 * i))]
            if not some:
                r = end
                continue
        while r < end:
            rows[found] = r
            found += np.uint64(near[np.uint64(load_2(ids + 2 * r))])
            r += 1
    return np.int64(found) - total


@njit(nogil=True)
def _look_up(
    pack: NDArray[np.int64],
    row_bytes: int,
    first: int,
    last: int,
    own: int,
    rows: NDArray[np.int64],
    chosen: NDArray[np.uint16],
    scaled_by: NDArray[np.int64],
    owned: NDArray[np.int64],
) -> None:
    """Replace row numbers of a pack by addresses, beside centroids and the addresses of scales and maxima.

    What lies there is asked for.
    """
    residuals_at, ids_at, scales_at = pack[0], pack[1], pack[2]
    for i in range(first, last):
        r, owned[i] = rows[i], own
        rows[i], chosen[i], scaled_by[i] = residuals_at + r * row_bytes, load_2(ids_at + 2 * r), scales_at + r
        prefetch_line(rows[i])
        prefetch_line(scaled_by[i])


@njit(nogil=True)
def _start(best: NDArray[np.float32], floors: NDArray[np.float32]) -> None:
    """Set (n, tiles, C) to (tiles, C); in loops, because numba takes seconds to compile an assignment of arrays."""
    for n in range(len(best)):
        for t in range(best.shape[1]):
            for c in range(best.shape[2]):
                best[n, t, c] = floors[t, c]


@njit(nogil=True)
def _most_rows(lengths: NDArray[np.int64], first: int, last: int) -> int:
    most = 0
    for n in range(first, last):
        most = max(most, lengths[n])
    return most


@compiled
def score_near(
    first: int,
    last: int,
    granules: tuple[int, ...],
    packs: NDArray[np.int64],
    row_bytes: int,
    bits: int,
    dim: int,
    owners: NDArray[np.int64],
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

    Args as `score_codes`, but that the tables may be of wider tiles, and:
        near: (65,536,) 1 at the centroids whose rows count, else 0.
        floors: (tiles, C): what a token scores where no row gives it more.
        met: (n,), written: rows of each document that are near.
    """
    tiles, words, width, _ = query_bytes.shape
    best = np.empty((_AHEAD, tiles, width), np.float32)
    most = _most_rows(lengths, first, last) * _AHEAD + TILE_ROWS
    rows, chosen, levels, scales = _room(most, words)
    scaled_by, owned, planes = np.empty(most, np.int64), np.empty(most, np.int64), 8 // bits
    for block in range(first, last, _AHEAD):
        # Near rows lie far apart: those of a few documents are asked for before the first is read.
        end, total = min(block + _AHEAD, last), 0
        for n in range(end, min(end + _AHEAD, last)):
            for r in range(starts[n], starts[n] + lengths[n], 32):
                prefetch_line(packs[owners[n], 1] + 2 * r)
        for n in range(block, end):
            met[n] = _near_rows(packs[owners[n], 1], starts[n], lengths[n], near, rows, total)
            own = best[n - block].ctypes.data
            _look_up(packs[owners[n]], row_bytes, total, total + met[n], own, rows, chosen, scaled_by, owned)
            total += met[n]
        for i in range(total, -(-total // TILE_ROWS) * TILE_ROWS):  # the last row fills the last tile
            rows[i], chosen[i] = rows[total - 1], chosen[total - 1]
            scaled_by[i], owned[i] = scaled_by[total - 1], owned[total - 1]
        _start(best, floors)
        for row in range(0, total, TILE_ROWS):
            for i in range(TILE_ROWS):
                scales[i] = _scale(scaled_by[row + i])
            at = rows.ctypes.data + 8 * row
            _unpack_rows(at, row_bytes, bits, planes, dim, levels.ctypes.data, levels.shape[1])
            for t in range(tiles):
                # Near rows have centroids that exist: others are not marked.
                code_tile_each(
                    granules, levels.ctypes.data, words, chosen.ctypes.data + 2 * row, scales.ctypes.data,
                    query_bytes[t].ctypes.data, tables[t].ctypes.data, units[t].ctypes.data,
                    owned.ctypes.data + 8 * row, 4 * tables.shape[2], 4 * t * width,
                )  # fmt: skip
        for n in range(block, end):
            sum_queries(best[n - block].ravel(), query_offsets, weights, scores, n)


@compiled
def match_codes(
    first: int,
    last: int,
    granules: tuple[int, ...],
    packs: NDArray[np.int64],
    row_bytes: int,
    bits: int,
    dim: int,
    owners: NDArray[np.int64],
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
    room, planes = _room(TILE_ROWS, words), 8 // bits
    for n in range(first, last):
        best[:] = -np.inf
        if lengths[n] == 0 or not _scan_argmax(
            granules, packs[owners[n]], row_bytes, bits, planes, dim, starts[n], lengths[n],
            query_bytes, tables, units, room, best, where,
        ):  # fmt: skip
            values[n] = scores[:, n] = -np.inf if lengths[n] == 0 else np.nan
            argmax[n] = -1
            continue
        sum_queries(best.ravel(), query_offsets, weights, scores, n)
        for i in range(values.shape[1]):
            values[n, i] = best.ravel()[i]
            argmax[n, i] = starts[n] + where.ravel()[i]
