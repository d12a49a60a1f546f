"""The library of compiled kernels: finds it, checks that it is complete and of this version, declares what it exports.

`src/fastlane.h` documents every function and structure here. To change one, raise `ABI` on both sides.
"""

from __future__ import annotations

import ctypes
import importlib.resources
import os
import sys
import warnings
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch

__all__ = [
    "ABI",
    "LEVEL_VARIABLE",
    "NONE",
    "Book",
    "Coded",
    "LibraryProblem",
    "Packs",
    "Query",
    "Totals",
    "library",
    "problem",
]

ABI = 4
LEVEL_VARIABLE = "FASTLANE_NATIVE_LEVEL"
NONE = "none"
"""The level without compiled kernels: torch computes everything."""

_NAMES = {"win32": "fastlane_kernels.dll", "darwin": "libfastlane_kernels.dylib"}
_NAME = _NAMES.get(sys.platform, "libfastlane_kernels.so")
_AGAIN = (
    "install fastlane-rag again (in a checkout: make setup), "
    f"or set {LEVEL_VARIABLE}={NONE} to use torch without this warning"
)


class LibraryProblem(Exception):
    """Why the compiled kernels cannot run."""


class Book(ctypes.Structure):
    """A codebook: `fastlane_book`."""

    _fields_ = (
        ("dim", c_int64),
        ("words", c_int64),
        ("bits", c_int64),
        ("row_bytes", c_int64),
        ("centroids", c_int64),
        ("steps", c_void_p),
        ("centroid_levels", c_void_p),
        ("centroid_center", c_void_p),
        ("centroid_steps", c_void_p),
    )


class Query(ctypes.Structure):
    """A query prepared for the codes of one book: `fastlane_query`."""

    _fields_ = (
        ("tokens", c_int64),
        ("tiles", c_int64),
        ("width", c_int64),
        ("numbers", c_void_p),
        ("units", c_void_p),
        ("middle", c_void_p),
        ("tables", c_void_p),
    )


class Coded(ctypes.Structure):
    """Documents in code: `fastlane_coded`."""

    _fields_ = (
        ("packs", c_void_p),
        ("owners", c_void_p),
        ("starts", c_void_p),
        ("lengths", c_void_p),
        ("count", c_int64),
    )


class Packs(ctypes.Structure):
    """Where documents in code lie: `fastlane_packs`."""

    _fields_ = (
        ("firsts", c_void_p),
        ("counts", c_void_p),
        ("offsets", c_void_p),
        ("rows", c_void_p),
        ("arrays", c_void_p),
        ("count", c_int64),
    )


class Totals(ctypes.Structure):
    """The output of a kernel, sums of token maxima: `fastlane_totals`."""

    _fields_ = (
        ("offsets", c_void_p),
        ("queries", c_int64),
        ("weights", c_void_p),
        ("scores", c_void_p),
        ("values", c_void_p),
        ("argmax", c_void_p),
    )


_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "fastlane_level": (c_char_p, ()),
    "fastlane_levels": (c_char_p, ()),
    "fastlane_set_level": (c_int32, (c_char_p,)),
    "fastlane_use_openmp": (None, (c_void_p,)),
    "fastlane_own_threads": (c_int32, ()),
    "fastlane_width": (c_int64, (c_int64,)),
    "fastlane_score_rows": (
        c_int32,
        (c_void_p, c_int64, c_int64, c_void_p, c_int32, c_void_p, c_void_p, c_int64, POINTER(Totals), c_int32),
    ),
    "fastlane_make_query": (c_int64, (POINTER(Book), c_void_p, POINTER(Query), POINTER(Coded), c_int32)),
    "fastlane_nearest": (c_int32, (POINTER(Book), c_void_p, c_int64, c_void_p, c_int32)),
    "fastlane_code_rows": (c_int32, (POINTER(Book), *[c_void_p] * 3, c_int64, c_void_p, c_void_p, c_int32)),
    "fastlane_locate": (c_int64, (POINTER(Packs), c_void_p, c_int64, c_void_p, POINTER(Coded))),
    "fastlane_score_codes": (c_int32, (POINTER(Book), POINTER(Query), POINTER(Coded), POINTER(Totals), c_int32)),
    "fastlane_score_near": (
        c_int64,
        (POINTER(Book), POINTER(Query), POINTER(Coded), c_int64, *[c_void_p] * 3, c_int32),
    ),
    "fastlane_best_rows": (c_int32, (c_void_p, *[c_int64] * 4, c_void_p, c_void_p)),
    "fastlane_gather": (
        c_int64,
        (c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_int64, *[c_void_p] * 5, c_int32),
    ),
    "fastlane_collect": (None, (c_void_p, c_int64, *[c_void_p] * 4, c_float, c_void_p, c_void_p)),
    "fastlane_multiply_vectors": (
        c_int32,
        (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int32),
    ),
    "fastlane_cover": (c_int32, (c_void_p, c_void_p, c_int64, c_int64, c_void_p)),
}


def library() -> ctypes.CDLL | None:
    """The library, loaded once; None where it cannot be loaded, after one warning.

    Raises:
        ValueError: FASTLANE_NATIVE_LEVEL names instructions that this processor does not have.
    """
    found = _loaded()
    return None if isinstance(found, LibraryProblem) else found


def problem() -> str | None:
    """Why the compiled kernels do not run here; None where they do."""
    found = _loaded()
    return str(found) if isinstance(found, LibraryProblem) else None


@cache
def _loaded() -> ctypes.CDLL | LibraryProblem:
    level = os.environ.get(LEVEL_VARIABLE) or None
    if level == NONE:
        return LibraryProblem(f"{LEVEL_VARIABLE} is {NONE}")
    try:
        found = _open()
    except LibraryProblem as error:
        warnings.warn(
            f"{error}. torch stands in for the compiled kernels, and searches take several times as long: {_AGAIN}.",
            RuntimeWarning,
            stacklevel=2,
        )
        return error
    if level is not None and found.fastlane_set_level(level.encode()):
        raise ValueError(
            f"{LEVEL_VARIABLE} is {level!r}, but this processor runs {found.fastlane_levels().decode()}, or {NONE}"
        )
    found.fastlane_use_openmp(_openmp())
    return found


def _open() -> ctypes.CDLL:
    """Load the library and check its version.

    Raises:
        LibraryProblem: the library is missing, damaged or of another version.
    """
    resource = importlib.resources.files(__package__).joinpath(_NAME)
    if not resource.is_file():
        raise LibraryProblem(f"the library of compiled kernels is missing: there is no {resource}")
    try:
        with importlib.resources.as_file(resource) as path:  # a temporary copy, where the package is in a zip file
            _check_whole(path)
            found = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryProblem(f"the library of compiled kernels does not load: {error}") from error
    try:
        found.fastlane_version.restype = c_char_p
        version, abi = found.fastlane_version().decode(), found.fastlane_abi()
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise LibraryProblem(f"{resource} is not the library of this version of fastlane-rag: {error}") from error
    own = sys.modules["fastlane_rag"].__version__  # an import would be a circle
    if (version, abi) != (own, ABI):
        raise LibraryProblem(
            f"{resource} is of fastlane-rag {version} (interface {abi}), and this is {own} (interface {ABI})"
        )
    return found


def _check_whole(path: Path) -> None:
    """Check that a library in Linux's format (ELF) is not cut off, because loading it then would end the process.

    Its header says where the section table, its last part, begins and ends.

    Raises:
        LibraryProblem: the file ends too early.
    """
    if sys.platform != "linux":
        return
    with path.open("rb") as file:
        head = file.read(64)
    start, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62)))
    if len(head) < 64 or (head.startswith(b"\x7fELF") and path.stat().st_size < start + size * count):
        raise LibraryProblem(f"the library of compiled kernels {path} is damaged: it ends too early")


def _openmp() -> int | None:
    """Address of `GOMP_parallel` in the OpenMP that torch uses; None where torch uses another OpenMP or none."""
    try:
        found = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(found, c_void_p).value
