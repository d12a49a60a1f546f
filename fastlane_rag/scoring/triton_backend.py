"""MaxSim on CUDA with the Triton kernels: chooses block sizes, lays out queries, launches."""

from __future__ import annotations

import importlib.util

import torch

from fastlane_rag.scoring.inputs import Packed

__all__ = ["bag", "scores", "supports", "token_maxima"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def supports(queries: torch.Tensor, documents: torch.Tensor) -> bool:
    """Whether the kernels are there and take these rows."""
    return (
        documents.is_cuda
        and queries.dtype in _DTYPES
        and documents.dtype in _DTYPES
        and documents.shape[1] > 0
        and importlib.util.find_spec("triton") is not None
    )


def scores(
    queries: Packed, documents: Packed, weights: torch.Tensor | None, *, grouped: bool, keep_argmax: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; arguments and results as `torch_backend.scores`."""
    result, _, argmax = _launch(queries, documents, weights, grouped=grouped, keep=keep_argmax)
    return result, None if argmax is None else argmax.T


def token_maxima(query: torch.Tensor, documents: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; as `torch_backend.token_maxima`."""
    alone = Packed.of(query, torch.tensor([0, len(query)]))
    _, values, argmax = _launch(alone, documents, None, grouped=False, keep=True)
    assert values is not None and argmax is not None  # noqa: S101, PT018
    return values, argmax


def bag(rows: torch.Tensor, indices: torch.Tensor, factors: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Sum weighted rows bag by bag; arguments and result as `torch_backend.bag`."""
    import triton  # type: ignore[import-untyped]

    from fastlane_rag.scoring.triton_kernels import bag_kernel

    count, dim = len(starts), rows.shape[1]
    sums = torch.zeros(count, dim, dtype=torch.float32, device=rows.device)
    if count and len(indices):
        block = min(triton.next_power_of_2(dim), 128)
        bounds = torch.nn.functional.pad(starts, (0, 1), value=len(indices))
        bag_kernel[(count, triton.cdiv(dim, block))](
            rows.contiguous(), indices, factors, bounds, sums, DIM=dim, BLOCK_E=16, BLOCK_K=block
        )
    return sums


def _launch(
    queries: Packed, documents: Packed, weights: torch.Tensor | None, *, grouped: bool, keep: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Scores (Nq, columns) and, if kept, the maxima and their rows (columns, Tq)."""
    import triton

    from fastlane_rag.scoring.triton_kernels import maxsim_kernel

    query_rows, document_rows = queries.rows.detach().contiguous(), documents.rows.detach().contiguous()
    device, (tokens, dim) = query_rows.device, query_rows.shape
    documents = documents.on(device)
    columns = len(documents) // max(len(queries), 1) if grouped else len(documents)
    result = torch.empty(len(queries), columns, dtype=torch.float32, device=device)
    values = torch.empty(columns, tokens, dtype=torch.float32, device=device) if keep else None
    argmax = torch.empty(columns, tokens, dtype=torch.int64, device=device) if keep else None
    if result.numel() == 0:
        return result, values, argmax

    slots, width = _slots(queries.on(device))
    factors = torch.ones(tokens, device=device) if weights is None else weights.detach().float().contiguous()
    # Several short queries share a program, so that it multiplies matrices and not slivers.
    together = 1 if grouped else max(1, min(128 // width, triton.next_power_of_2(len(queries))))
    block_q = min(width * together, 128)
    programs = len(documents) * (1 if grouped else triton.cdiv(len(queries), together))
    unused = result
    maxsim_kernel[(programs,)](
        query_rows,
        factors,
        slots,
        document_rows,
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
        BLOCK_Q=block_q,
        BLOCK_D=64,
        BLOCK_K=max(16, min(triton.next_power_of_2(dim), 128)),
        SPLIT=query_rows.dtype == torch.float32 and document_rows.dtype != torch.float32,
        GROUPED=grouped,
        KEEP=keep,
    )
    return result, values, argmax


def _slots(queries: Packed) -> tuple[torch.Tensor, int]:
    """Give every query the same number of slots, 16 and up: the rows in them (-1: none), and that number.

    The number is a power of two up to 128 and a multiple of 128 beyond, so that blocks divide it.
    """
    import triton

    longest = int(queries.lengths.max())
    width = max(16, triton.next_power_of_2(longest)) if longest <= 128 else triton.cdiv(longest, 128) * 128
    slot = torch.arange(width, device=queries.lengths.device)
    rows = torch.where(slot < queries.lengths[:, None], queries.starts[:, None] + slot, -1)
    return rows.flatten(), width
