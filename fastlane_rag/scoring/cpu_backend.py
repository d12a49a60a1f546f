"""MaxSim on the CPU with the compiled kernels: prepares their arguments and shares the work among threads."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.inputs import Packed
from fastlane_rag.scoring.threads import get_threads, run_ranges
from fastlane_rag.scoring.torch_backend import bag

__all__ = ["bag", "scores", "supports", "token_maxima"]

# Fewer multiply-adds than this take less time than handing them to another thread.
_WORTH_A_THREAD = 4_000_000
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of the kernels' numbers for them


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from fastlane_rag.scoring import cpu_kernels, cpu_tile
    except ImportError as error:
        warnings.warn(f"numba does not load ({error}); scoring uses torch, which is slower", stacklevel=2)
        return None
    return cpu_kernels if cpu_tile.can_widen_halfs() else None


def supports(queries: torch.Tensor, documents: torch.Tensor) -> bool:
    """Whether the compiled kernels are there and take these rows."""
    return (
        documents.device.type == "cpu"
        and queries.dtype in _DTYPES
        and documents.dtype in _DTYPES
        and documents.shape[1] > 0
        and _kernels() is not None
    )


def scores(
    queries: Packed, documents: Packed, weights: torch.Tensor | None, *, grouped: bool, keep_argmax: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; arguments and results as `torch_backend.scores`."""
    queries, documents = queries.on("cpu"), documents.on("cpu")
    columns = len(documents) // max(len(queries), 1) if grouped else len(documents)
    offsets, rows = queries.offsets.numpy(), _float32(queries.rows)
    factors = np.ones(len(rows), np.float32) if weights is None else _float32(weights)
    result = np.empty((len(queries), columns), np.float32)
    argmax = np.empty((len(rows), columns), np.int64) if keep_argmax else None

    step = 1 if grouped else max(len(queries), 1)
    for first in range(0, len(queries), step):
        bounds = offsets[first : first + step + 1]
        tokens = slice(bounds[0], bounds[-1])
        here = slice(first * columns, first * columns + columns)
        some = Packed(documents.rows, documents.starts[here], documents.lengths[here])
        totals = bounds - bounds[0], factors[tokens], result[first : first + step]
        if argmax is None:
            _scan("score_documents", rows[tokens], some, *totals)
        else:
            argmax[tokens] = _match(rows[tokens], some, *totals)[1].T
    return torch.from_numpy(result), None if argmax is None else torch.from_numpy(argmax)


def token_maxima(query: torch.Tensor, documents: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; as `torch_backend.token_maxima`."""
    no_query = np.zeros(1, np.int64), np.empty(0, np.float32), np.empty((0, len(documents)), np.float32)
    values, argmax = _match(_float32(query), documents.on("cpu"), *no_query)
    return torch.from_numpy(values), torch.from_numpy(argmax)


def _match(
    query: NDArray[np.float32], documents: Packed, *totals: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    shape = len(documents), len(query)
    values, argmax = np.empty(shape, np.float32), np.empty(shape, np.int64)
    _scan("match_documents", query, documents, *totals, values, argmax)
    return values, argmax


def _scan(kernel: str, query: NDArray[np.float32], documents: Packed, *rest: NDArray[np.generic]) -> None:
    """Run a kernel over the documents, in as many threads as the work is worth."""
    if len(documents) == 0:
        return
    function: Callable[..., None] = getattr(_kernels(), kernel)
    rows = documents.rows.detach().contiguous()
    starts, lengths = documents.starts.numpy(), documents.lengths.numpy()
    granules, tiles = _tiles(query)
    fixed = granules, rows.data_ptr(), _DTYPES.index(rows.dtype), starts, lengths, tiles, *rest
    run_ranges(lambda first, last: function(first, last, *fixed), _split(lengths, query.size))


def _split(lengths: NDArray[np.int64], multiply_adds: int) -> list[int]:
    """Bounds of document ranges with about equal numbers of rows, one range for each thread worth using."""
    ends = np.cumsum(lengths)
    worth = int(ends[-1]) * multiply_adds // _WORTH_A_THREAD
    threads = max(1, min(get_threads(), len(lengths), worth))
    inner = np.searchsorted(ends, ends[-1] * np.arange(1, threads) / threads)
    bounds: list[int] = np.unique([0, *inner, len(lengths)]).tolist()
    return bounds


def _tiles(query: NDArray[np.float32]) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """Cut (Tq, dim) query tokens into equal tiles (tiles, dim, C), padded with zeros, and C in granules."""
    from fastlane_rag.scoring.cpu_tile import GRANULE, MAX_GRANULES

    tokens, dim = query.shape
    count = -(-tokens // (GRANULE * MAX_GRANULES))
    granules = -(-tokens // (GRANULE * max(count, 1)))
    width = granules * GRANULE
    tiles = np.zeros((count, dim, width), np.float32)
    for t in range(count):
        part = query[t * width : (t + 1) * width]
        tiles[t, :, : len(part)] = part.T
    return (0,) * max(granules, 1), tiles


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
