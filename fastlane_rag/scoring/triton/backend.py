"""MaxSim on CUDA with the Triton kernels: chooses block sizes, lays out queries, launches."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from fastlane_rag.scoring.codes import Codes
from fastlane_rag.scoring.inputs import Packed, Request, Rows, in_order

__all__ = ["available", "bag", "scores", "token_maxima"]


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
        bag_kernel[(count, triton.cdiv(dim, block))](
            rows.contiguous(), indices, factors, bounds, sums, DIM=dim, BLOCK_E=16, BLOCK_K=block
        )
    return sums


def _launch(request: Request) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Scores (Nq, columns) and, if kept, the maxima and their rows (columns, Tq)."""
    import triton

    from fastlane_rag.scoring.triton.kernels import maxsim_kernel

    queries, weights, grouped, keep = request.queries, request.weights, request.grouped, request.keep_argmax
    query_rows = queries.rows.detach().contiguous()
    device, (tokens, dim) = query_rows.device, query_rows.shape
    documents, columns = request.documents.on(device), request.columns
    result = torch.empty(len(queries), columns, dtype=torch.float32, device=device)
    values = torch.empty(columns, tokens, dtype=torch.float32, device=device) if keep else None
    argmax = torch.empty(columns, tokens, dtype=torch.int64, device=device) if keep else None
    if result.numel() == 0:
        return result, values, argmax

    slots, width = _slots(queries.on(device))
    factors = torch.ones(tokens, device=device) if weights is None else weights.detach().float().contiguous()
    blocks = block_sizes(query_rows.dtype, documents.rows, width, 1 if grouped else len(queries))
    together = max(blocks["BLOCK_Q"] // width, 1)
    programs = len(documents) * (1 if grouped else triton.cdiv(len(queries), together))
    unused = result
    maxsim_kernel[(programs,)](
        query_rows,
        factors,
        slots,
        *_document_arrays(documents.rows),
        documents.starts.contiguous(),
        documents.lengths.contiguous(),
        result,
        values if values is not None else unused,
        argmax if argmax is not None else unused,
        len(queries),
        tokens,
        len(documents),
        columns,
        DIM=dim,
        SLOTS=width,
        PRECISION="tf32x3",
        GROUPED=grouped,
        KEEP=keep,
        **blocks,
    )
    return result, values, argmax


def _document_arrays(rows: Rows) -> tuple[torch.Tensor | int, ...]:
    """The kernel's arguments for documents; for rows that are not in code, it reads only the first."""
    if isinstance(rows, Codes):
        return (
            rows.residuals.contiguous(),
            rows.centroid_ids.contiguous(),
            rows.scales.contiguous(),
            rows.codebook.base,
            rows.codebook.steps.contiguous(),
            len(rows.codebook.centroids),
        )
    return (*(rows.detach().contiguous(),) * 5, 0)


def block_sizes(query_dtype: torch.dtype, documents: Rows, width: int, queries: int) -> dict[str, Any]:
    """Choose the kernel's tile for these documents and queries of `width` slots.

    Every choice fits 96 KiB of shared memory, which the smaller devices of compute capability 8.0 and later have, and
    spills almost no registers.
    """
    import triton

    bits = documents.codebook.bits if isinstance(documents, Codes) else 0
    full, dim = documents.dtype == torch.float32 and not bits, documents.shape[1]
    widest = 32 if full else 64
    # Several short queries share a program, so that its matrices are large enough for the tensor cores.
    together = max(1, min(widest // width, triton.next_power_of_2(queries)))
    whole = max(16, triton.next_power_of_2(dim))  # the smallest matrix a tensor core multiplies is 16 wide
    return {
        "BLOCK_Q": min(width * together, widest),
        "BLOCK_D": 32 if full or bits else 64,
        "BLOCK_K": min(whole, 32) if full else whole if whole <= 128 else 64,
        # Documents in code: the error of the code is far larger than that of a query in float16.
        "SPLIT": query_dtype == torch.float32 and not full and not bits,
        "BITS": bits,
        "num_warps": 4,
        "num_stages": 2 if full or bits else 3,
    }


def _slots(queries: Packed[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Give every query the same number of slots: returns the row in each slot (-1 for none), and that number.

    The number is a power of two from 16 to 64, or a multiple of 64, so that blocks divide it.
    """
    import triton

    longest = int(queries.lengths.max())
    width = max(16, triton.next_power_of_2(longest)) if longest <= 64 else triton.cdiv(longest, 64) * 64
    slot = torch.arange(width, device=queries.lengths.device)
    rows = torch.where(slot < queries.lengths[:, None], queries.starts[:, None] + slot, -1)
    return rows.flatten(), width
