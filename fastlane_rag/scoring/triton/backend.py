"""MaxSim on CUDA with the Triton kernels: chooses block sizes, lays out queries, launches on the device of the rows."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from fastlane_rag.scoring.codes import Codes
from fastlane_rag.scoring.inputs import Packed, Request, Rows, in_order

__all__ = ["available", "bag", "block_sizes", "scores", "token_maxima"]

_TABLE_BYTES = 256 << 20  # of products of centroids and query tokens, held at once
_ENTRIES = 1 << 31  # of a table, as the kernel numbers them
_PROGRAMS = 16  # of the kernel over codes, for each multiprocessor
_MOST_PROGRAMS = (1 << 31) - 16  # of one launch, as CUDA numbers them
_HALF_RANGE = 1 << 15  # larger query values are scaled down for documents in float16


def available(device: torch.device) -> bool:
    """Whether the kernels are there, and suit the device.

    Below compute capability 8.0 Triton does not use the tensor cores, and torch is faster.
    """
    return torch.cuda.get_device_capability(device) >= (8, 0) and importlib.util.find_spec("triton") is not None


def scores(request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; see `Backend`."""
    result, _, argmax = _launch(request)
    return result, None if argmax is None else argmax.T


def token_maxima(query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; see `Backend`."""
    alone = in_order(query, torch.tensor([0, len(query)]))
    _, values, argmax = _launch(Request(alone, documents, keep_argmax=True))
    assert values is not None and argmax is not None  # noqa: S101, PT018
    return values, argmax


def bag(rows: torch.Tensor, indices: torch.Tensor, factors: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Sum weighted rows bag by bag; see `Backend`."""
    import triton

    from fastlane_rag.scoring.triton.kernels import bag_kernel

    count, dim = len(starts), rows.shape[1]
    sums = torch.zeros(count, dim, dtype=torch.float32, device=rows.device)
    if count and len(indices):
        block = min(triton.next_power_of_2(dim), 128)
        bounds = torch.nn.functional.pad(starts, (0, 1), value=len(indices))
        with _on(rows.device):
            bag_kernel[(count, triton.cdiv(dim, block))](
                rows.contiguous(), indices, factors, bounds, sums, DIM=dim, BLOCK_E=16, BLOCK_K=block
            )
    return sums


def _launch(request: Request) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Scores (Nq, columns) and, if kept, the maxima and their rows (columns, Tq)."""
    device, columns, tokens = request.queries.rows.device, request.columns, len(request.queries.rows)
    result = torch.empty(len(request.queries), columns, dtype=torch.float32, device=device)
    values = torch.empty(columns, tokens, dtype=torch.float32, device=device) if request.keep_argmax else None
    argmax = torch.empty(columns, tokens, dtype=torch.int64, device=device) if request.keep_argmax else None
    if result.numel():
        with _on(device):
            launch = _score_codes if isinstance(request.documents.rows, Codes) else _score_rows
            launch(request, result, values, argmax)
    return result, values, argmax


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Makes a CUDA device the current one: Triton launches there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _score_codes(
    request: Request, result: torch.Tensor, values: torch.Tensor | None, argmax: torch.Tensor | None
) -> None:
    """Write the scores of documents in code, for some queries at a time."""
    from fastlane_rag.scoring.triton.codes import CodedQueries, launch

    device, grouped, columns = result.device, request.grouped, request.columns
    documents = cast("Packed[Codes]", request.documents).on(device)
    book = documents.rows.codebook
    key = id(book), grouped
    if key not in request.prepared:
        longest = request.longest
        if 2 * longest * len(book.centroids) > _ENTRIES:
            size = 8 * longest * len(book.centroids) >> 30
            raise torch.OutOfMemoryError(f"a query of {longest} tokens needs a table of {size} GiB on {device}")
        # Of each slot, of which a query takes up to 2 * longest: the table, and the levels.
        slot_bytes = max(4 * len(book.centroids), 8 // book.bits * (book.width + 128))
        step = max(1, _TABLE_BYTES // (2 * max(8, longest) * slot_bytes))
        ranges = [slice(first, first + step) for first in range(0, len(request.queries), step)]
        made = [
            (here, CodedQueries(request.queries, request.weights, book, here, longest=longest, alone=grouped))
            for here in ranges
        ]
        request.prepared[key] = book, made  # with the codebook, so that its id stays its own
    _, parts = request.prepared[key]
    programs = _PROGRAMS * _multiprocessors(device)
    starts, lengths = documents.starts.contiguous(), documents.lengths.contiguous()
    for here, queries in parts:
        mine = slice(here.start * columns, here.stop * columns) if grouped else slice(None)
        some = Packed(documents.rows, starts[mine], lengths[mine])
        launch(queries, some, result[here], values, argmax, grouped=grouped, programs=programs)


def _multiprocessors(device: torch.device) -> int:
    """Multiprocessors of the device; 1 in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _score_rows(
    request: Request, result: torch.Tensor, values: torch.Tensor | None, argmax: torch.Tensor | None
) -> None:
    """Write the scores of documents as rows."""
    import triton

    from fastlane_rag.scoring.triton.kernels import maxsim_kernel

    queries, weights, grouped, columns = request.queries, request.weights, request.grouped, request.columns
    documents = cast("Packed[torch.Tensor]", request.documents).on(result.device)
    query_rows, rows = queries.rows.detach(), documents.rows.detach().contiguous()
    tokens, dim = query_rows.shape
    factors = torch.ones(tokens, device=result.device) if weights is None else weights.detach().float()
    grown = None
    if rows.dtype == torch.float16 and query_rows.dtype != torch.float16:
        # Powers of two lose no digit, and bring the query into the range of float16.
        largest = query_rows.float().abs().amax(1)
        exponents = torch.where(largest.isfinite() & (largest > _HALF_RANGE), largest.frexp().exponent - 15, 0)
        grown = torch.ldexp(torch.ones_like(largest), exponents)
        query_rows, factors = (query_rows.float() / grown[:, None]).to(query_rows.dtype), factors * grown

    slots, width = _slots(queries.on(result.device), request.longest)
    blocks = block_sizes(query_rows.dtype, rows, width, 1 if grouped else len(queries))
    together = max(blocks["BLOCK_Q"] // width, 1)
    each = 1 if grouped else triton.cdiv(len(queries), together)  # programs of a document
    starts, lengths = documents.starts.contiguous(), documents.lengths.contiguous()
    step = len(documents) if grouped else max(1, _MOST_PROGRAMS // each)
    for first in range(0, len(documents), step):
        here = slice(first, first + step)
        maxsim_kernel[(len(starts[here]) * each,)](
            query_rows.contiguous(),
            factors.contiguous(),
            slots,
            rows,
            starts[here],
            lengths[here],
            result.view(-1)[first:],
            result if values is None else values[first:],
            result if argmax is None else argmax[first:],
            len(queries),
            tokens,
            columns,
            DIM=dim,
            SLOTS=width,
            PRECISION="tf32x3",
            GROUPED=grouped,
            KEEP=values is not None,
            **blocks,
        )
    if grown is not None and values is not None:
        values *= grown


def block_sizes(query_dtype: torch.dtype, documents: torch.Tensor, width: int, queries: int) -> dict[str, Any]:
    """Choose the kernel's tile for these documents and queries of `width` slots.

    Every choice fits 96 KiB of shared memory, which the smaller devices of compute capability 8.0 and later have, and
    spills almost no registers.
    """
    import triton

    full, dim = documents.dtype == torch.float32, documents.shape[1]
    widest = 32 if full else 64
    # Several short queries share a program, so that its matrices are large enough for the tensor cores.
    together = max(1, min(widest // width, triton.next_power_of_2(queries)))
    whole = max(16, triton.next_power_of_2(dim))  # the smallest matrix a tensor core multiplies is 16 wide
    return {
        "BLOCK_Q": min(width * together, widest),
        "BLOCK_D": 32 if full else 64,
        "BLOCK_K": min(whole, 32) if full else whole if whole <= 128 else 64,
        "SPLIT": query_dtype != documents.dtype and not full,
        "num_warps": 4,
        "num_stages": 2 if full else 3,
    }


def _slots(queries: Packed[torch.Tensor], longest: int) -> tuple[torch.Tensor, int]:
    """Give every query the same number of slots: returns the row in each slot (-1 for none), and that number.

    The number is a power of two from 16 to 64, or a multiple of 64, so that blocks divide it.
    """
    import triton

    width = max(16, triton.next_power_of_2(longest)) if longest <= 64 else triton.cdiv(longest, 64) * 64
    slot = torch.arange(width, device=queries.lengths.device)
    rows = torch.where(slot < queries.lengths[:, None], queries.starts[:, None] + slot, -1)
    return rows.flatten(), width
