"""LLVM vector code for the host's CPU: the pieces the tiles of cpu_tile and cpu_code_tile are built from."""

from __future__ import annotations

import platform

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import config

__all__ = [
    "BYTE",
    "FLOAT",
    "GRANULE",
    "INT",
    "INT32",
    "LANES",
    "MAX_GRANULES",
    "TILE_ROWS",
    "Loop",
    "can_widen_halfs",
    "has_byte_dot",
    "load",
    "multiply_add",
    "prefetch",
    "raise_maximum",
    "splat",
    "store",
    "vector_widths",
]

GRANULE = 8  # query tokens of a tile come in multiples of this


def _features() -> set[str]:
    """What numba compiles for: the host's features, or those its user asked for (NUMBA_CPU_FEATURES)."""
    asked: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    if asked is not None:
        return {name[1:] for name in asked.split(",") if name.startswith("+")}
    return {name for name, present in binding.get_host_cpu_features().items() if present}


_FEATURES = _features()
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
_AVX512 = "avx512f" in _FEATURES
# One vector register's floats, and the rows whose sums fit the registers beside the query's vectors.
LANES = 16 if _AVX512 else 8 if "avx2" in _FEATURES else 4
MAX_GRANULES = 4 if _AVX512 else 2
TILE_ROWS = 8 if _AVX512 else 6

INT = ir.IntType(64)
INT32 = ir.IntType(32)
BYTE = ir.IntType(8)
FLOAT = ir.FloatType()


def can_widen_halfs() -> bool:
    """Whether the host converts float16 in hardware; without it LLVM would call a missing function."""
    return not _X86 or "f16c" in _FEATURES


def has_byte_dot() -> bool:
    """Whether the host adds up products of four bytes in one instruction (x86 VNNI)."""
    return {"avx512vnni", "avx512vl"} <= _FEATURES or "avxvnni" in _FEATURES


def vector_widths(tokens: int) -> list[int]:
    """Split a tile's tokens into vectors, full registers first."""
    widths = [LANES] * (tokens // LANES)
    return [*widths, tokens % LANES] if tokens % LANES else widths


class Loop:
    """A counted loop: for index in range(first, last, step). Use as a context manager around its body.

    `carry` makes a value that lives across turns; `index` is the counter. The loop runs at least once.
    """

    def __init__(self, builder: ir.IRBuilder, first: ir.Value, last: ir.Value, step: int = 1) -> None:
        self._builder, self._last, self._step = builder, last, step
        self._before = builder.block
        self._body, self._after = builder.append_basic_block("body"), builder.append_basic_block("after")
        builder.branch(self._body)
        builder.position_at_end(self._body)
        self.index = builder.phi(INT)
        self.index.add_incoming(first, self._before)

    def carry(self, start: ir.Value) -> ir.PhiInstr:
        """A value that begins as `start`; give its next turn's value to `renew`."""
        value = self._builder.phi(start.type)
        value.add_incoming(start, self._before)
        return value

    def renew(self, carried: ir.PhiInstr, value: ir.Value) -> None:
        """Set what a carried value is in the next turn."""
        carried.add_incoming(value, self._body)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *unused: object) -> None:
        following = self._builder.add(self.index, INT(self._step))
        self.index.add_incoming(following, self._body)
        self._builder.cbranch(self._builder.icmp_signed("<", following, self._last), self._body, self._after)
        self._builder.position_at_end(self._after)


def load(builder: ir.IRBuilder, address: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
    """Read a value of any alignment."""
    pointer = builder.inttoptr(builder.add(address, INT(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, offset: int) -> None:
    """Write a value at any alignment."""
    pointer = builder.inttoptr(builder.add(address, INT(offset)), value.type.as_pointer())
    builder.store(value, pointer, align=1)


def splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector with the same value in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    zeros = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Fused a * b + c."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for the cache line at an address; any address will do."""
    pointer = BYTE.as_pointer()
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32]), name
    )
    # Read access, keep in every cache level, data.
    builder.call(function, [builder.inttoptr(address, pointer), INT32(0), INT32(3), INT32(1)])


def raise_maximum(
    builder: ir.IRBuilder, values: list[ir.Value], number: ir.Value | None, best: ir.Value, where: ir.Value
) -> None:
    """Raise the maxima at address `best` to the vectors `values`, one of each row.

    With a `number`, that of the first row, the rows of the maxima are kept at address `where`.
    """
    floats = values[0].type
    numbers = ir.VectorType(INT32, floats.count)
    maximum = load(builder, best, 0, floats)
    position = load(builder, where, 0, numbers) if number is not None else None
    for r, value in enumerate(values):
        # "Not less or equal" lets a NaN in, "ordered" keeps it: bad embeddings give a NaN score.
        take = builder.and_(builder.fcmp_unordered(">", value, maximum), builder.fcmp_ordered("ord", maximum, maximum))
        maximum = builder.select(take, value, maximum)
        if number is not None:
            row = builder.trunc(builder.add(number, INT(r)), INT32)
            position = builder.select(take, splat(builder, row, numbers), position)
    store(builder, maximum, best, 0)
    if number is not None:
        store(builder, position, where, 0)
