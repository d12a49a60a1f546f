"""The inner loop of MaxSim on a CPU, as LLVM vector code that numba compiles for the host.

A tile is a few document rows against a few query tokens: their dot products stay in registers, where each
query token's lane keeps its maximum. BLAS would write all dot products to memory to be read once more; the
tile runs at the FMA units' peak because nothing but the documents themselves comes from memory, and those it
prefetches.

Addresses are plain integers, so kernels do not depend on who owns the arrays or whether they are read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from fastlane_rag.scoring.cpu_ir import (
    FLOAT,
    GRANULE,
    INT,
    INT32,
    LANES,
    TILE_ROWS,
    Loop,
    load,
    multiply_add,
    prefetch,
    raise_maximum,
    splat,
    store,
    vector_widths,
)

__all__ = ["row_argmax", "row_max", "tile_argmax", "tile_max", "widen"]


Keep = Literal["maximum", "position"]
"""What a tile keeps: the maximum over its rows, or also the row it comes from."""


def _make_tile(rows: int, keep: Keep) -> Callable[..., None]:
    """A tile of `rows` rows."""

    @intrinsic
    def tile(
        typing: Any,
        granules: Any,
        address: Any,
        row_bytes: Any,
        query: Any,
        dim: Any,
        best: Any,
        where: Any,
        number: Any,
        ahead: Any,
        ahead_step: Any,
    ) -> Any:
        """Raise `best` to the maxima over rows at `address`.

        Args:
            granules: a tuple; its length says how many times GRANULE query tokens the tile has. (A tuple's
                length is part of its type, so each width compiles to code of its own.)
            address: of the first row, float32.
            row_bytes: from one row to the next.
            query: address of (dim, tokens) float32.
            dim: at least 1.
            best: address of (tokens,) float32.
            where: address of (tokens,) int32; row numbers, if the tile keeps the position.
            number: of the first row.
            ahead: address to prefetch from.
            ahead_step: bytes to prefetch for each dimension.
        """
        if not isinstance(granules, types.UniTuple):
            return None
        widths = vector_widths(len(granules) * GRANULE)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            _emit_tile(builder, rows, widths, keep, *arguments[1:])
            return context.get_dummy_value()

        return types.void(granules, *[types.int64] * 9), generate

    return tile


def _emit_tile(
    builder: ir.IRBuilder,
    rows: int,
    widths: list[int],
    keep: Keep,
    address: ir.Value,
    row_bytes: ir.Value,
    query: ir.Value,
    dim: ir.Value,
    best: ir.Value,
    where: ir.Value,
    number: ir.Value,
    ahead: ir.Value,
    ahead_step: ir.Value,
) -> None:
    offsets = [4 * sum(widths[:v]) for v in range(len(widths))]
    vectors = [ir.VectorType(FLOAT, width) for width in widths]
    addresses = [builder.add(address, builder.mul(row_bytes, INT(r))) for r in range(rows)]
    with Loop(builder, INT(0), dim) as loop:
        sums = [[loop.carry(ir.Constant(v, [0.0] * v.count)) for v in vectors] for _ in range(rows)]
        query_k = builder.add(query, builder.mul(loop.index, INT(4 * sum(widths))))
        tokens = [load(builder, query_k, at, v) for at, v in zip(offsets, vectors, strict=True)]
        dots = []
        for row, row_sums in zip(addresses, sums, strict=True):
            value = load(builder, builder.add(row, builder.mul(loop.index, INT(4))), 0, FLOAT)
            splats = [splat(builder, value, v) for v in vectors]
            dots.append([multiply_add(builder, *terms) for terms in zip(splats, tokens, row_sums, strict=True)])
            for total, dot in zip(row_sums, dots[-1], strict=True):
                loop.renew(total, dot)
        prefetch(builder, builder.add(ahead, builder.mul(loop.index, ahead_step)))
    for v, at in enumerate(offsets):
        of_rows = [row_dots[v] for row_dots in dots]
        first = number if keep == "position" else None
        raise_maximum(builder, of_rows, first, builder.add(best, INT(at)), builder.add(where, INT(at)))


@intrinsic
def _widen(typing: Any, source: Any, target: Any, count: Any, is_bfloat: Any) -> Any:
    """Convert `count` float16 (or bfloat16) numbers at address `source` to float32 at `target`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, target, count, is_bfloat = arguments
        full = builder.and_(count, INT(-LANES))
        for first, last, width in ((INT(0), full, LANES), (full, count, 1)):
            with builder.if_then(builder.icmp_signed("<", first, last)), Loop(builder, first, last, width) as loop:
                _emit_widen(builder, source, target, loop.index, is_bfloat, width)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.boolean), generate


def _emit_widen(
    builder: ir.IRBuilder, source: ir.Value, target: ir.Value, i: ir.Value, is_bfloat: ir.Value, width: int
) -> None:
    ints, floats = ir.VectorType(INT32, width), ir.VectorType(FLOAT, width)
    raw = load(builder, builder.add(source, builder.mul(i, INT(2))), 0, ir.VectorType(ir.IntType(16), width))
    from_bfloat = builder.bitcast(builder.shl(builder.zext(raw, ints), ir.Constant(ints, [16] * width)), floats)
    from_half = builder.fpext(builder.bitcast(raw, ir.VectorType(ir.HalfType(), width)), floats)
    value = builder.select(is_bfloat, from_bfloat, from_half)
    store(builder, value, builder.add(target, builder.mul(i, INT(4))), 0)


tile_max, tile_argmax = (_make_tile(TILE_ROWS, keep) for keep in get_args(Keep))
row_max, row_argmax = (_make_tile(1, keep) for keep in get_args(Keep))
widen: Callable[..., None] = _widen
