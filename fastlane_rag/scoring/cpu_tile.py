"""The inner loop of MaxSim on a CPU, as LLVM vector code that numba compiles for the host.

A tile is a few document rows against a few query tokens: their dot products stay in registers, where each
query token's lane keeps its maximum. BLAS would write all dot products to memory to be read once more; the
tile runs at the FMA units' peak because nothing but the documents themselves comes from memory, and those it
prefetches.

Addresses are plain integers, so kernels do not depend on who owns the arrays or whether they are read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

__all__ = [
    "GRANULE",
    "MAX_GRANULES",
    "TILE_ROWS",
    "can_widen_halfs",
    "row_argmax",
    "row_max",
    "tile_argmax",
    "tile_max",
    "widen",
]

GRANULE = 8  # query tokens of a tile come in multiples of this

_FEATURES = binding.get_host_cpu_features()
_X86 = "x86" in binding.get_default_triple() or "sse2" in _FEATURES
_AVX512 = bool(_FEATURES.get("avx512f"))
# One vector register's floats, and the rows whose sums fit the registers beside the query's vectors.
_LANES = 16 if _AVX512 else 8 if _FEATURES.get("avx2") else 4
MAX_GRANULES = 4 if _AVX512 else 2
TILE_ROWS = 8 if _AVX512 else 6

_INT = ir.IntType(64)
_INT32 = ir.IntType(32)
_FLOAT = ir.FloatType()


def can_widen_halfs() -> bool:
    """Whether the host converts float16 in hardware; without it LLVM would call a missing function."""
    return not _X86 or bool(_FEATURES.get("f16c"))


def _make_tile(rows: int, locate: bool) -> Callable[..., None]:
    """A tile of `rows` rows; `locate` also keeps the number of the row with the maximum."""

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
            where: address of (tokens,) int32; row numbers, if the tile locates.
            number: of the first row.
            ahead: address to prefetch from.
            ahead_step: bytes to prefetch for each dimension.
        """
        if not isinstance(granules, types.UniTuple):
            return None
        widths = _vector_widths(len(granules) * GRANULE)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            _emit_tile(builder, rows, widths, locate, *arguments[1:])
            return context.get_dummy_value()

        return types.void(granules, *[types.int64] * 9), generate

    return tile


def _vector_widths(tokens: int) -> list[int]:
    """Split a tile's tokens into vectors, full registers first."""
    widths = [_LANES] * (tokens // _LANES)
    return [*widths, tokens % _LANES] if tokens % _LANES else widths


def _emit_tile(
    builder: ir.IRBuilder,
    rows: int,
    widths: list[int],
    locate: bool,
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
    tokens = sum(widths)
    starts = [sum(widths[:v]) for v in range(len(widths))]
    vectors = [ir.VectorType(_FLOAT, width) for width in widths]
    row_addresses = [builder.add(address, builder.mul(row_bytes, _INT(r))) for r in range(rows)]

    before = builder.block
    loop, after = builder.append_basic_block("dimension"), builder.append_basic_block("maximum")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INT)
    k.add_incoming(_INT(0), before)
    sums = [[builder.phi(vector) for vector in vectors] for _ in range(rows)]
    query_k = builder.add(query, builder.mul(k, _INT(4 * tokens)))
    query_vectors = [_load(builder, query_k, 4 * s, v) for s, v in zip(starts, vectors, strict=True)]
    products = []
    for row_address, row_sums in zip(row_addresses, sums, strict=True):
        value = _load(builder, builder.add(row_address, builder.mul(k, _INT(4))), 0, _FLOAT)
        splats = [_splat(builder, value, vector) for vector in vectors]
        products.append([_multiply_add(builder, *terms) for terms in zip(splats, query_vectors, row_sums, strict=True)])
        for total, product in zip(row_sums, products[-1], strict=True):
            total.add_incoming(ir.Constant(total.type, [0.0] * total.type.count), before)
            total.add_incoming(product, loop)
    _prefetch(builder, builder.add(ahead, builder.mul(k, ahead_step)))
    following = builder.add(k, _INT(1))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, dim), loop, after)

    builder.position_at_end(after)
    for v, (start, vector) in enumerate(zip(starts, vectors, strict=True)):
        numbers = ir.VectorType(_INT32, vector.count)
        maximum = _load(builder, best, 4 * start, vector)
        position = _load(builder, where, 4 * start, numbers) if locate else None
        for r in range(rows):
            value = products[r][v]
            # "Not less or equal" lets a NaN in, "ordered" keeps it: bad embeddings give a NaN score.
            take = builder.and_(
                builder.fcmp_unordered(">", value, maximum), builder.fcmp_ordered("ord", maximum, maximum)
            )
            maximum = builder.select(take, value, maximum)
            if locate:
                row = builder.trunc(builder.add(number, _INT(r)), _INT32)
                position = builder.select(take, _splat(builder, row, numbers), position)
        _store(builder, maximum, best, 4 * start)
        if locate:
            _store(builder, position, where, 4 * start)


@intrinsic
def _widen(typing: Any, source: Any, target: Any, count: Any, is_bfloat: Any) -> Any:
    """Convert `count` float16 (or bfloat16) numbers at address `source` to float32 at `target`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, target, count, is_bfloat = arguments
        full = builder.and_(count, _INT(-_LANES))
        _emit_widen(builder, source, target, _INT(0), full, is_bfloat, _LANES)
        _emit_widen(builder, source, target, full, count, is_bfloat, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.boolean), generate


def _emit_widen(
    builder: ir.IRBuilder,
    source: ir.Value,
    target: ir.Value,
    first: ir.Value,
    last: ir.Value,
    is_bfloat: ir.Value,
    width: int,
) -> None:
    halfs = ir.VectorType(ir.IntType(16), width)
    before = builder.block
    check, body, after = (builder.append_basic_block(name) for name in ("check", "widen", "widened"))
    builder.branch(check)
    builder.position_at_end(check)
    i = builder.phi(_INT)
    i.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", i, last), body, after)
    builder.position_at_end(body)
    raw = _load(builder, builder.add(source, builder.mul(i, _INT(2))), 0, halfs)
    shifted = builder.shl(
        builder.zext(raw, ir.VectorType(_INT32, width)), ir.Constant(ir.VectorType(_INT32, width), [16] * width)
    )
    bfloats = builder.bitcast(shifted, ir.VectorType(_FLOAT, width))
    floats = builder.fpext(builder.bitcast(raw, ir.VectorType(ir.HalfType(), width)), ir.VectorType(_FLOAT, width))
    _store(builder, builder.select(is_bfloat, bfloats, floats), builder.add(target, builder.mul(i, _INT(4))), 0)
    i.add_incoming(builder.add(i, _INT(width)), builder.block)
    builder.branch(check)
    builder.position_at_end(after)


def _load(builder: ir.IRBuilder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    pointer = builder.inttoptr(builder.add(address, _INT(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, offset: int) -> None:
    pointer = builder.inttoptr(builder.add(address, _INT(offset)), value.type.as_pointer())
    builder.store(value, pointer, align=1)


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    zeros = ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    pointer = ir.IntType(8).as_pointer()
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32]), name
    )
    # Read access, keep in every cache level, data.
    builder.call(function, [builder.inttoptr(address, pointer), _INT32(0), _INT32(3), _INT32(1)])


tile_max = _make_tile(TILE_ROWS, locate=False)
tile_argmax = _make_tile(TILE_ROWS, locate=True)
row_max = _make_tile(1, locate=False)
row_argmax = _make_tile(1, locate=True)
widen: Callable[..., None] = _widen
