"""MaxSim over documents in code on CUDA, without decoding: a table of centroids, and products of small integers.

    row . query = scale * (near[centroid] . query + sum_d steps_d * query_d * (level_d - half))

near is the row of a centroid at the level half = 2 ** (bits - 1). Its product is the same for all rows of a centroid,
so one matrix product makes a table of it for a batch of queries. The sum takes steps_d * query_d in 8 bits, with one
unit a query token, and the levels as they are stored: the tensor cores multiply bytes. So a token costs its bytes of
code, and one row of the table from the cache.
"""

# The kernel's arguments are pointers and compile-time constants, which a type checker cannot check.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator,import-untyped"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from fastlane_rag.scoring.codes import Codebook, Codes
from fastlane_rag.scoring.inputs import Packed

__all__ = ["COUNTS", "OPTIONS", "Blocks", "CodedQueries", "codes_kernel", "launch"]

COUNTS = ["centroid_count", "query_count", "query_tokens", "slot_blocks", "lanes", "document_count", "columns"]
OPTIONS = {"num_warps": 4, "num_stages": 3}

_LEAST, _MOST = 8, 64  # columns that the tensor cores multiply together, and slots that registers hold


@triton.jit(do_not_specialize=COUNTS)
def codes_kernel(
    levels,  # (S, PLANES, PADDED) int8: the query tokens of each slot, times the steps, in units; 0 beyond WIDTH
    units,  # (S,) float32: what a product of levels is worth
    table,  # (K, S) float32: the middle level of each centroid times the query token of each slot
    rows,  # (S,) int32: the query token in each slot, -1 in unused ones
    weights,  # (S,) float32
    residuals,  # (T, WIDTH) uint8: the packed levels of all documents
    centroid_ids,  # (T,) uint16
    scales,  # (T,) uint8
    starts,  # (Nd,) int64
    lengths,  # (Nd,) int64
    scores,  # (Nq, Nd) float32 out; (Nq, N) when GROUPED
    values,  # (Nd, Tq) float32 out if KEEP, the maxima; (N, Tq) when GROUPED
    argmax,  # (Nd, Tq) int64 out if KEEP, their rows
    centroid_count,  # K
    query_count,  # Nq
    query_tokens,  # Tq
    slot_blocks,  # S / BLOCK_Q
    lanes,  # programs that share the documents of one block of queries
    document_count,  # Nd
    columns,  # Nd, or N when GROUPED
    WIDTH: tl.constexpr,  # bytes of a row's levels
    PADDED: tl.constexpr,  # a multiple of BLOCK_W
    BITS: tl.constexpr,
    SLOTS: tl.constexpr,  # of a query, a power of two, or a multiple of BLOCK_Q
    BLOCK_Q: tl.constexpr,  # slots scored together
    BLOCK_D: tl.constexpr,  # document rows read together
    BLOCK_W: tl.constexpr,  # bytes multiplied together
    GROUPED: tl.constexpr,
    KEEP: tl.constexpr,
    PACKED: tl.constexpr,  # unpack four bytes at once; the interpreter has no such instruction
):
    """Score every document of one lane against the queries of one block of slots."""
    together: tl.constexpr = BLOCK_Q // SLOTS if BLOCK_Q > SLOTS else 1  # queries of one program
    program = tl.program_id(0)
    # Programs of one document run side by side, so that its rows are read from memory once.
    blocks = 1 if GROUPED else tl.cdiv(query_count, together)
    document = (program // blocks).to(tl.int64)
    while document < document_count:
        first_query = document // columns if GROUPED else ((program % blocks) * together).to(tl.int64)
        column = document % columns if GROUPED else document
        start = tl.load(starts + document)
        length = tl.load(lengths + document).to(tl.int32)
        total = tl.zeros((together,), tl.float32)
        for first_slot in range(0, SLOTS, BLOCK_Q):
            slots = (first_query * SLOTS + first_slot).to(tl.int32) + tl.arange(0, BLOCK_Q)
            query_units = tl.load(units + slots)
            best = tl.full((BLOCK_D, BLOCK_Q), float("-inf"), tl.float32)
            where = tl.full((BLOCK_D, BLOCK_Q), 0, tl.int32)
            for token in range(0, length, BLOCK_D):
                # Beyond the end, the last row again: it changes no maximum.
                offset = tl.minimum(token + tl.arange(0, BLOCK_D), length - 1)
                centroids = tl.load(centroid_ids + start + offset).to(tl.int32)
                scale = (tl.load(scales + start + offset).to(tl.float32) + 128) / 256
                # A centroid that does not exist makes the score NaN.
                scale = tl.where(centroids < centroid_count, scale, float("nan"))
                centroids = tl.minimum(centroids, centroid_count - 1)
                document_levels = residuals + start * WIDTH
                products = _products(
                    levels, slots, document_levels, offset, WIDTH, PADDED, BITS, BLOCK_Q, BLOCK_D, BLOCK_W, PACKED
                )
                near = tl.load(table + (centroids * (slot_blocks * BLOCK_Q))[:, None] + slots[None, :])
                similarity = (near + query_units[None, :] * products.to(tl.float32)) * scale[:, None]
                if KEEP:
                    better = (similarity > best) | ((similarity != similarity) & (best == best))
                    where = tl.where(better, offset[:, None], where)
                best = tl.maximum(best, similarity, propagate_nan=tl.PropagateNan.ALL)
            # The reduction would drop NaN. Replace it by infinity, which is replaced by NaN again below.
            best = tl.where(best == best, best, float("inf"))
            query_rows = tl.load(rows + slots)
            if KEEP:
                highest, lane = tl.max(best, 0, return_indices=True)
                chosen = tl.arange(0, BLOCK_D)[:, None] == lane[None, :]
                matched = start + tl.sum(tl.where(chosen, where, 0), 0)
                highest = tl.where(highest == float("inf"), float("nan"), highest)
                target = column * query_tokens + query_rows
                tl.store(values + target, highest, query_rows >= 0)
                tl.store(argmax + target, tl.where(length > 0, matched, -1), query_rows >= 0)
            else:
                highest = tl.max(best, 0)
                highest = tl.where(highest == float("inf"), float("nan"), highest)
            weighted = tl.where(query_rows >= 0, highest * tl.load(weights + slots), 0.0)
            total += tl.sum(tl.reshape(weighted, (together, BLOCK_Q // together)), 1)
        total = tl.where(length > 0, total, float("-inf"))
        owners = first_query + tl.arange(0, together)
        tl.store(scores + owners * columns + column, total, owners < query_count)
        document += lanes


@triton.jit
def _products(
    levels,
    slots,
    residuals,
    offset,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    PACKED: tl.constexpr,
):
    """(BLOCK_D, BLOCK_Q) int32: document levels less half, times query levels and 2 ** (8 - BITS)."""
    planes: tl.constexpr = 8 // BITS
    products = tl.zeros((BLOCK_D, BLOCK_Q), tl.int32)
    for first in tl.static_range(0, PADDED, BLOCK_W):
        places = first + tl.arange(0, BLOCK_W)
        at = residuals + offset[:, None] * WIDTH + places[None, :]
        packed = tl.load(at) if first + BLOCK_W <= WIDTH else tl.load(at, (places < WIDTH)[None, :], 0)
        for shifts in tl.static_range(planes):
            # Byte j of a row has the levels of dimensions j, j + WIDTH, and so on, a plane each; the last one on top.
            plane = levels + (planes - 1 - shifts) * PADDED
            query = tl.load(plane + slots[None, :] * (planes * PADDED) + places[:, None])
            products = tl.dot(_top_levels(packed, BITS, PACKED), query, products, out_dtype=tl.int32)
            if shifts + 1 < planes:
                packed = _next_plane(packed, BITS, PACKED)
    return products


@triton.jit
def _top_levels(packed, BITS: tl.constexpr, PACKED: tl.constexpr):
    """The level in the highest BITS of each byte, less half of the levels, times 2 ** (8 - BITS), as int8."""
    if not PACKED:
        return ((packed & (256 - (1 << (8 - BITS)))) ^ 0x80).to(tl.int8, bitcast=True)
    if BITS == 8:
        return tl.inline_asm_elementwise("xor.b32 $0, $1, 0x80808080;", "=r,r", [packed], tl.int8, True, 4)
    if BITS == 4:
        return tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, 0xF0F0F0F0, 0x80808080, 0x6A;", "=r,r", [packed], tl.int8, True, 4
        )
    if BITS == 2:
        return tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, 0xC0C0C0C0, 0x80808080, 0x6A;", "=r,r", [packed], tl.int8, True, 4
        )
    return tl.inline_asm_elementwise(
        "lop3.b32 $0, $1, 0x80808080, 0x80808080, 0x6A;", "=r,r", [packed], tl.int8, True, 4
    )


@triton.jit
def _next_plane(packed, BITS: tl.constexpr, PACKED: tl.constexpr):
    """Bytes with the plane below on top."""
    if not PACKED:
        return (packed << BITS).to(tl.uint8)
    # Bits that come from the neighbouring byte lie below those that are used.
    if BITS == 4:
        return tl.inline_asm_elementwise("shl.b32 $0, $1, 4;", "=r,r", [packed], tl.uint8, True, 4)
    if BITS == 2:
        return tl.inline_asm_elementwise("shl.b32 $0, $1, 2;", "=r,r", [packed], tl.uint8, True, 4)
    return tl.inline_asm_elementwise("shl.b32 $0, $1, 1;", "=r,r", [packed], tl.uint8, True, 4)


@dataclass(frozen=True)
class Blocks:
    """The kernel's tile for queries of one length and documents of one codebook.

    Attributes:
        width: slots of a query.
        queries: slots scored together.
        bytes: of a row multiplied together.
    """

    width: int
    queries: int
    bytes: int

    @classmethod
    def of(cls, longest: int, count: int, book: Codebook) -> Blocks:
        """Blocks for up to `count` queries together, of up to `longest` tokens."""
        least = 1 if count > 1 else _LEAST
        width = max(least, triton.next_power_of_2(longest)) if longest <= _MOST else triton.cdiv(longest, _MOST) * _MOST
        # Several short queries share a program.
        queries = max(_LEAST, min(_MOST, width * triton.next_power_of_2(count)))
        return cls(width, queries, min(128, max(32, triton.next_power_of_2(book.width))))

    def padded(self, book: Codebook) -> int:
        """Bytes of a plane of query levels."""
        return int(triton.cdiv(book.width, self.bytes)) * self.bytes

    def constants(self, book: Codebook) -> dict[str, Any]:
        """What the kernel is compiled for."""
        return {
            "WIDTH": book.width,
            "PADDED": self.padded(book),
            "BITS": book.bits,
            "SLOTS": self.width,
            "BLOCK_Q": self.queries,
            "BLOCK_D": 64,
            "BLOCK_W": self.bytes,
        }


class CodedQueries:
    """Some queries of a batch, prepared for one codebook, on its device.

    Args:
        queries: the batch, in any floating dtype below float64.
        weights: (Tq,) float, or None.
        book: the codebook of the documents.
        here: which of the queries.
        longest: no query has more rows.
        alone: whether each query is scored with documents of its own.
    """

    def __init__(
        self,
        queries: Packed[torch.Tensor],
        weights: torch.Tensor | None,
        book: Codebook,
        here: slice,
        *,
        longest: int,
        alone: bool,
    ) -> None:
        device, bits = book.centroids.device, book.bits
        self.count, self.tokens = len(queries.lengths[here]), len(queries.rows)
        self.blocks = Blocks.of(longest, 1 if alone else self.count, book)
        where = queries.on(device)
        slot = torch.arange(self.blocks.width, device=device)
        rows = torch.where(slot < where.lengths[here, None], where.starts[here, None] + slot, -1).flatten()
        # A block that is larger than what there is reads unused slots.
        rows = torch.nn.functional.pad(rows, (0, -len(rows) % self.blocks.queries), value=-1)
        # The number -1 takes the last row, which is made of zeros.
        values = torch.nn.functional.pad(queries.rows.detach().float(), (0, 0, 0, 1))[rows]
        factors = torch.ones(self.tokens, device=device) if weights is None else weights.detach().float()
        factors = torch.nn.functional.pad(factors, (0, 1))[rows]

        stepped = values * book.steps
        largest = stepped.abs().amax(1)
        units = torch.where(largest > 0, largest / 127, 1)
        rounded = (stepped / units[:, None]).round().nan_to_num(0, 127, -127)
        shape = len(rows), 8 // bits, self.blocks.padded(book)
        levels = torch.zeros(shape, dtype=torch.int8, device=device)
        for plane, first in enumerate(range(0, book.dim, book.width)):
            part = rounded[:, first : first + book.width]
            levels[:, plane, : part.shape[1]] = part.to(torch.int8)
        # The kernel takes half of the levels from each, so that those are small which the rounded query multiplies.
        self.table = book.base @ values.T + 2 ** (bits - 1) * stepped.sum(1)
        self.levels, self.units = levels, units * 2.0 ** (bits - 8)
        self.rows, self.weights = rows.int(), factors


def launch(
    queries: CodedQueries,
    documents: Packed[Codes],
    scores: torch.Tensor,
    values: torch.Tensor | None,
    argmax: torch.Tensor | None,
    *,
    grouped: bool,
    programs: int,
) -> None:
    """Write scores (Nq, columns), and if given the maxima and their rows (columns, Tq).

    Args:
        queries: prepared for the documents' codebook.
        documents: on the device, starts and lengths as well.
        scores: (Nq, columns) float32.
        values: (columns, Tq) float32, or None.
        argmax: (columns, Tq) int64, or None.
        grouped: whether each query has documents of its own.
        programs: about how many to start.
    """
    blocks, codes = queries.blocks, documents.rows
    side_by_side = 1 if grouped else triton.cdiv(queries.count, max(blocks.queries // blocks.width, 1))
    lanes = max(1, min(len(documents), programs // side_by_side))
    codes_kernel[(lanes * side_by_side,)](
        queries.levels,
        queries.units,
        queries.table,
        queries.rows,
        queries.weights,
        codes.residuals,
        codes.centroid_ids,
        codes.scales,
        documents.starts,
        documents.lengths,
        scores,
        scores if values is None else values,
        scores if argmax is None else argmax,
        len(codes.codebook.centroids),
        queries.count,
        queries.tokens,
        len(queries.rows) // blocks.queries,
        lanes,
        len(documents),
        scores.shape[1],
        GROUPED=grouped,
        KEEP=values is not None,
        PACKED=not triton.knobs.runtime.interpret,
        **blocks.constants(codes.codebook),
        **OPTIONS,
    )
