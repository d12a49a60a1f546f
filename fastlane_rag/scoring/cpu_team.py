"""Kernels shared out among the OpenMP threads that torch computes with.

After torch has encoded a query its other threads spin for some milliseconds, in case there is more to do. Threads of
another pool would have to wait for their processors; to them work comes within microseconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastlane_rag.scoring.cpu_compile import compiled
from fastlane_rag.scoring.cpu_ir import BYTE, INT, INT32
from fastlane_rag.scoring.threads import run_ranges

__all__ = ["run"]

_POINTER = BYTE.as_pointer()
_forked = False


def run(kernel: Callable[..., None], bounds: Sequence[int], threads: int, arguments: tuple[Any, ...]) -> None:
    """Call kernel(bounds[i], bounds[i + 1], *arguments) for every i.

    Args:
        kernel: what `compiled` made, of arguments that numba takes without their Python objects.
        bounds: of the ranges; each thread takes the next one, so a few more than there are threads.
        threads: at most so many work, this one included.
        arguments: of every call.

    Raises:
        MemoryError: a kernel found no room to work in.
    """
    team = 0 if threads == 1 else _team()
    if threads > 1 and not team:
        share = len(bounds) // threads or 1
        run_ranges(lambda first, last: kernel(first, last, *arguments), [*bounds[:-1:share], bounds[-1]])
        return
    ranges, state = np.array(bounds, np.int64), np.zeros(2, np.int64)
    _shared(kernel)(team, min(threads, len(ranges) - 1), ranges, state, arguments)
    if state[1] != len(ranges) - 1:
        raise MemoryError("there is no memory left to score in: use fewer threads (fastlane_rag.scoring.set_threads)")


@cache
def _team() -> int:
    """Address of OpenMP's entry in the library that torch is linked with; 0 where it has another one, or none."""
    if _forked:  # GNU's threads do not survive a fork, and it would wait for them
        return 0
    try:
        found = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(found, ctypes.c_void_p).value or 0


def _after_fork() -> None:
    global _forked
    _forked = True
    _team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _count_up(typing: Any, address: Any) -> Any:
    """Add one to an int64 that several threads count with, and give what it was."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        counter = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", counter, INT(1), "seq_cst")

    return types.int64(types.int64), generate


_add_one: Any = intrinsic(_count_up)


def _call(context: Any, builder: ir.IRBuilder, function: Any, signature: Any, arguments: list[ir.Value]) -> Any:
    """Call without becoming a part of the caller: of large kernels each copy takes seconds to compile."""
    callee = context.declare_function(builder.module, function)
    types_of = signature.return_type, signature.args
    status, _ = context.call_conv.call_function(builder, callee, *types_of, arguments, attrs=("noinline",))
    return status


def _make_in_team(kernel: Callable[..., None]) -> Callable[..., None]:
    def call(typing: Any, first: Any, last: Any, arguments: Any) -> Any:
        """The kernel, compiled as a part of its caller: called as a function of its own it would be compiled twice."""
        inner = types.none(types.int64, types.int64, *arguments)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, given: Any) -> Any:
            flags: Any = Flags()  # type: ignore[no-untyped-call]
            flags.nrt, flags.error_model = True, "numpy"
            found = context.compile_subroutine(builder, kernel, inner, flags=flags)
            parts = [builder.extract_value(given[2], i) for i in range(len(arguments))]
            status = _call(context, builder, found.fndesc, inner, [*given[:2], *parts])
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.none(types.int64, types.int64, arguments), generate

    run: Any = intrinsic(call)

    def work(ranges: NDArray[np.int64], state: NDArray[np.int64], arguments: Any) -> None:
        """Take ranges until there are none; `state` counts those taken and those done."""
        taken = state.ctypes.data
        i = _add_one(taken)
        while i < len(ranges) - 1:
            run(ranges[i], ranges[i + 1], arguments)
            _add_one(taken + 8)
            i = _add_one(taken)

    @intrinsic
    def in_team(typing: Any, team: Any, threads: Any, ranges: Any, state: Any, arguments: Any) -> Any:
        """Have `work` done by so many threads: through OpenMP's entry at the address `team`, or here if that is 0."""
        worker = types.none(ranges, state, arguments)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, given: Any) -> Any:
            team, threads, *rest = given
            compiled_work = context.compile_subroutine(builder, work, worker)
            packed = context.make_tuple(builder, types.Tuple(worker.args), rest)  # type: ignore[no-untyped-call]
            slot = cgutils.alloca_once_value(builder, packed)  # type: ignore[no-untyped-call]
            data = builder.bitcast(slot, _POINTER)

            kind = ir.FunctionType(ir.VoidType(), [_POINTER])
            body = ir.Function(builder.module, kind, builder.function.name + ".body")
            body.linkage = "internal"
            inside = ir.IRBuilder(body.append_basic_block())
            unpacked = inside.load(inside.bitcast(body.args[0], packed.type.as_pointer()))
            parts = [inside.extract_value(unpacked, i) for i in range(len(rest))]
            # An error ends this thread's work, and fewer ranges are done than there are.
            _call(context, inside, compiled_work.fndesc, worker, parts)
            inside.ret_void()

            with builder.if_else(builder.icmp_signed("!=", team, INT(0))) as (shared, alone):
                with shared:
                    kind = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, INT32, INT32])
                    entry = builder.inttoptr(team, kind.as_pointer())
                    count = builder.trunc(threads, INT32)
                    builder.call(entry, [builder.bitcast(body, _POINTER), data, count, INT32(0)])
                with alone:
                    builder.call(body, [data])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, ranges, state, arguments), generate

    result: Callable[..., None] = in_team
    return result


def _share(team: int, threads: int, ranges: NDArray[np.int64], state: NDArray[np.int64], arguments: Any) -> None:
    _in_team(team, threads, ranges, state, arguments)  # type: ignore[name-defined]  # noqa: F821


@cache
def _shared(kernel: Any) -> Callable[..., None]:
    """`_share` of one kernel. What is in a team is a global name to it: numba would not keep a closure on disk."""
    # What is kept has the kernel inside, whose file numba does not look at.
    version = hashlib.sha256(Path(kernel.py_func.__code__.co_filename).read_bytes()).hexdigest()[:12]
    known = {"__name__": __name__, "_in_team": _make_in_team(kernel.py_func)}
    function = FunctionType(_share.__code__, known, f"share_{kernel.__name__}_{version}")
    function.__qualname__ = function.__name__
    return compiled(function)
