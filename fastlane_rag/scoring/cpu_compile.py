"""Compiling the CPU kernels with numba, once for a machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

__all__ = ["compiled", "part"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the Python lock, for the argument types of each first call, kept on disk.

    numba notices when the file of `function` changes but not when one it takes its tiles from does. So the
    name it files the code under tells the version of all of them.
    """
    function.__qualname__ += f"_{_sources()}"
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    with suppress(RuntimeError):  # no writable place for the cache: compile in every process
        dispatcher.enable_caching()
    result: Callable[..., Any] = dispatcher
    return result


def part(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a part of the kernels that is made several times, under a name of its own.

    Kernels kept on disk by different processes are told apart by names alone: a second function of this name could
    stand in for the first.
    """

    def compile_part(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__name__ = function.__qualname__ = name
        result: Callable[..., Any] = njit(nogil=True)(function)
        return result

    return compile_part


@cache
def _sources() -> str:
    files = sorted(Path(__file__).parent.glob("cpu_*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
