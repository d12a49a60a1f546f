"""The inner loop of MaxSim over codes on a CPU whose instructions add up products of bytes (x86 VNNI).

    query . row = scale * (query . centroid + (query * steps) . (levels - middle))

The first product is looked up, from a table made once a query; the second is one of small integers once the
query's side is rounded to a byte, four products an instruction. So a row is scored about three times as fast
as in float32, without being decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from fastlane_rag.scoring.cpu_ir import (
    BYTE,
    FLOAT,
    GRANULE,
    INT,
    INT32,
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

__all__ = [
    "code_tile_argmax",
    "code_tile_each",
    "code_tile_max",
    "code_tile_products",
    "expand_8",
    "expand_16",
    "expand_32",
    "expand_64",
    "expand_byte",
    "load_1",
    "load_2",
    "load_4",
    "load_8",
    "prefetch_line",
]


Keep = Literal["maximum", "position", "each", "products"]
"""What a tile keeps of its rows, which are of one document: the maximum, or also the row it comes from. In a tile of
"each" the rows may be of several documents, and each has a maximum of its own to raise. A tile of "products" has rows
without centroids and keeps what it makes of each."""


def _make_tile(keep: Keep) -> Callable[..., None]:
    """A tile of TILE_ROWS rows."""

    @intrinsic
    def tile(
        typing: Any,
        granules: Any,
        levels: Any,
        words: Any,
        ids: Any,
        scales: Any,
        query: Any,
        table: Any,
        units: Any,
        best: Any,
        where: Any,
        number: Any,
    ) -> Any:
        """Raise `best` to the maxima over rows in code. All arguments but the first are addresses or counts.

        Args:
            granules: a tuple; its length says how many times GRANULE query tokens the tile has.
            levels: (rows, 4 * words) uint8.
            words: groups of four dimensions.
            ids: (rows,) uint16, inside the table; not read for products.
            scales: (rows,) float32; not read for products.
            query: (words, tokens, 4) int8.
            table: (K, tokens) float32: each token's product with each centroid, less that with the middle; for
                products (tokens,) to add to those of the first row.
            units: (tokens,) float32: what one step of a query byte is worth.
            best: (tokens,) float32; of a tile of "each": (rows,) int64, the address of each row's; of products: (rows,
                tokens), written.
            where: (tokens,) int32; row numbers, if the tile keeps the position. A number for products: how many bytes
                after those of one row lies what is added to the next; for "each": from one centroid in the table to
                the next, which may be of a wider tile.
            number: of the first row. For "each": bytes to add to the addresses.
        """
        if not isinstance(granules, types.UniTuple):
            return None
        widths = vector_widths(len(granules) * GRANULE)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            _emit_tile(builder, widths, keep, *arguments[1:])
            return context.get_dummy_value()

        return types.void(granules, *[types.int64] * 10), generate

    return tile


def _emit_tile(
    builder: ir.IRBuilder,
    widths: list[int],
    keep: Keep,
    levels: ir.Value,
    words: ir.Value,
    ids: ir.Value,
    scales: ir.Value,
    query: ir.Value,
    table: ir.Value,
    units: ir.Value,
    best: ir.Value,
    where: ir.Value,
    number: ir.Value,
) -> None:
    rows = TILE_ROWS
    tokens = sum(widths)
    offsets = [4 * sum(widths[:v]) for v in range(len(widths))]
    integers = [ir.VectorType(INT32, width) for width in widths]
    row_bytes = builder.mul(words, INT(4))
    addresses = [builder.add(levels, builder.mul(row_bytes, INT(r))) for r in range(rows)]
    with Loop(builder, INT(0), words) as loop:
        sums = [[loop.carry(ir.Constant(v, [0] * v.count)) for v in integers] for _ in range(rows)]
        query_k = builder.add(query, builder.mul(loop.index, INT(4 * tokens)))
        query_words = [load(builder, query_k, at, v) for at, v in zip(offsets, integers, strict=True)]
        dots = []
        for address, row_sums in zip(addresses, sums, strict=True):
            word = load(builder, builder.add(address, builder.mul(loop.index, INT(4))), 0, INT32)
            dots.append(
                [
                    _dot_bytes(builder, total, splat(builder, word, total.type), of_query)
                    for total, of_query in zip(row_sums, query_words, strict=True)
                ]
            )
            for total, dot in zip(row_sums, dots[-1], strict=True):
                loop.renew(total, dot)

    looked_up = []
    table_step = where if keep == "each" else INT(4 * tokens)
    for r in range(rows if keep != "products" else 0):
        centroid = builder.zext(load(builder, ids, 2 * r, ir.IntType(16)), INT)
        looked_up.append(builder.add(table, builder.mul(centroid, table_step)))
    for v, at in enumerate(offsets):
        floats = ir.VectorType(FLOAT, widths[v])
        unit = load(builder, units, at, floats)
        if keep == "products":
            for r in range(rows):
                more = load(builder, builder.add(table, builder.mul(where, INT(r))), at, floats)
                value = multiply_add(builder, builder.sitofp(dots[r][v], floats), unit, more)
                store(builder, value, best, 4 * tokens * r + at)
            continue
        values = []
        for r in range(rows):
            sums_of_levels = builder.sitofp(dots[r][v], floats)
            value = multiply_add(builder, sums_of_levels, unit, load(builder, looked_up[r], at, floats))
            values.append(builder.fmul(value, splat(builder, load(builder, scales, 4 * r, FLOAT), floats)))
        if keep == "each":
            for r, value in enumerate(values):
                own = builder.add(builder.add(load(builder, best, 8 * r, INT), number), INT(at))
                raise_maximum(builder, [value], None, own, own)
            continue
        first = number if keep == "position" else None
        raise_maximum(builder, values, first, builder.add(best, INT(at)), builder.add(where, INT(at)))


def _dot_bytes(builder: ir.IRBuilder, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Total plus, in each lane, the four products of unsigned with signed bytes."""
    vector = total.type
    name = f"llvm.x86.avx512.vpdpbusd.{32 * vector.count}"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(vector, [vector] * 3), name
    )
    return builder.call(function, [total, unsigned, signed])


def _make_expand(width: int) -> Callable[..., None]:
    """Take one plane's levels of TILE_ROWS rows out of packed bytes, `width` at a time."""

    @intrinsic
    def expand(
        typing: Any,
        rows: Any,
        target: Any,
        target_bytes: Any,
        count: Any,
        shift: Any,
        mask: Any,
    ) -> Any:
        """Write (packed byte >> shift) & mask for each of the first `count` bytes of each row.

        Args:
            rows: address of (TILE_ROWS,) int64, the addresses of the rows.
            target: address of the first row's levels.
            target_bytes: from one to the next.
            count: at least `width`.
            shift: where the plane's bits are in a byte.
            mask: as many ones as it has bits.
        """

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            rows, target, target_bytes, count, shift, mask = arguments
            # Shifted in words of four bytes, where processors can: the mask clears what comes in from the next byte.
            lane = INT32 if width >= 4 else BYTE
            lanes = ir.VectorType(lane, width * BYTE.width // lane.width)
            repeated = builder.mul(mask, INT(0x01010101))
            shifts, masks = (splat(builder, builder.trunc(x, lane), lanes) for x in (shift, repeated))
            last = builder.sub(count, INT(width))
            pairs = []
            for r in range(TILE_ROWS):
                pairs.append((load(builder, rows, 8 * r, INT), builder.add(target, builder.mul(target_bytes, INT(r)))))
            with Loop(builder, INT(0), count, width) as loop:
                # The last turn reaches back over bytes already written.
                at = builder.select(builder.icmp_signed("<", loop.index, last), loop.index, last)
                for source, levels in pairs:
                    found = builder.lshr(load(builder, builder.add(source, at), 0, lanes), shifts)
                    store(builder, builder.and_(found, masks), builder.add(levels, at), 0)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return expand


def _make_load(kind: ir.IntType) -> Callable[[int], int]:
    """Read an unsigned number at an address, of any alignment."""

    def load_number(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            found = load(builder, arguments[0], 0, kind)
            return found if kind == INT else builder.zext(found, INT)

        return types.int64(types.int64), generate

    result: Callable[[int], int] = intrinsic(load_number)  # type: ignore[assignment]
    return result


@intrinsic
def _prefetch_line(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, without waiting for it."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


prefetch_line: Callable[..., None] = _prefetch_line
load_1, load_2, load_4, load_8 = (_make_load(ir.IntType(8 * size)) for size in (1, 2, 4, 8))
code_tile_max, code_tile_argmax, code_tile_each, code_tile_products = (_make_tile(keep) for keep in get_args(Keep))
expand_64, expand_32, expand_16, expand_8, expand_byte = (_make_expand(width) for width in (64, 32, 16, 8, 1))
