"""The gradient of MaxSim: a sparse matrix with one entry per query token and document.

The forward pass keeps only the argmax. With G[i, n] the weighted gradient of token i's maximum in document
n, both gradients are bags of embeddings: dQ[i] = sum_n G[i, n] D[argmax[i, n]], and the transpose for D.
Sorting by row makes the second a bag too, so nothing of size Lq x Ld exists and the sums are repeatable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import embedding_bag

from fastlane_rag.scoring.inputs import Packed
from fastlane_rag.scoring.torch_backend import block_elements, compute_dtype, scores

__all__ = ["differentiable_scores"]


def differentiable_scores(
    queries: Packed, documents: Packed, weights: torch.Tensor | None, *, grouped: bool
) -> torch.Tensor:
    """Score as `torch_backend.scores`, with gradients to query rows, document rows and weights."""
    result: torch.Tensor = _MaxSim.apply(  # type: ignore[no-untyped-call]
        queries.rows, documents.rows, weights, queries.offsets, documents.offsets, grouped
    )
    return result


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_rows: torch.Tensor,
        document_rows: torch.Tensor,
        weights: torch.Tensor | None,
        query_offsets: torch.Tensor,
        document_offsets: torch.Tensor,
        grouped: bool,
    ) -> torch.Tensor:
        queries, documents = Packed(query_rows, query_offsets), Packed(document_rows, document_offsets)
        result, argmax = scores(queries, documents, weights, grouped=grouped, keep_argmax=True)
        ctx.save_for_backward(query_rows, document_rows, weights, argmax)
        ctx.queries_of_tokens = torch.repeat_interleave(torch.arange(len(queries)), queries.lengths)
        ctx.document_offsets, ctx.grouped = document_offsets, grouped
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_rows, document_rows, weights, argmax = ctx.saved_tensors
        dtype = compute_dtype(query_rows, document_rows)
        queries = query_rows.to(dtype)
        factor = None if weights is None else weights.to(dtype)[:, None]
        grad = grad.to(dtype)[ctx.queries_of_tokens.to(grad.device)]  # (Tq, columns)
        # An empty document matched nothing and its score is a constant.
        grad = grad.masked_fill(argmax < 0, 0)

        bags = torch.zeros_like(queries)
        grad_documents = torch.zeros_like(document_rows) if ctx.needs_input_grad[1] else None
        for columns, rows in _column_blocks(argmax, ctx.document_offsets, ctx.grouped):
            here = (argmax[:, columns] - rows.start).clamp_(min=0)
            part = grad[:, columns].contiguous()
            bags += embedding_bag(here, document_rows[rows].to(dtype), per_sample_weights=part, mode="sum")
            if grad_documents is not None:
                scaled = part if factor is None else part * factor
                grad_documents[rows] = _gather_by_row(here, scaled, queries, rows.stop - rows.start).to(
                    grad_documents.dtype
                )

        # The maxima themselves are not kept: sum_n grad * maximum is the query's product with its bag.
        grad_weights = (queries * bags).sum(1).to(weights.dtype) if ctx.needs_input_grad[2] else None
        grad_queries = (bags if factor is None else bags * factor).to(query_rows.dtype)
        return grad_queries, grad_documents, grad_weights, None, None, None


def _gather_by_row(
    rows: torch.Tensor, factors: torch.Tensor, queries: torch.Tensor, count: int
) -> torch.Tensor:
    """Sum factors[i, n] * queries[i] into row rows[i, n] of a (count, d) result."""
    ordered, order = rows.flatten().sort(stable=True)
    starts = torch.searchsorted(ordered, torch.arange(count, device=rows.device))
    tokens = order // rows.shape[1]
    return embedding_bag(tokens, queries, starts, per_sample_weights=factors.flatten()[order], mode="sum")


def _column_blocks(argmax: torch.Tensor, offsets: torch.Tensor, grouped: bool) -> list[tuple[slice, slice]]:
    """Column ranges of `argmax` with the document rows they point into, each within the memory budget."""
    tokens, columns = argmax.shape
    if columns == 0 or tokens == 0:
        return []
    # In groups a column points all over the documents, and there are few columns: one block.
    step = columns if grouped else max(block_elements(argmax) // tokens, 1)
    ends = range(0, columns, step)
    return [
        (slice(c, min(c + step, columns)), slice(0, int(offsets[-1])))
        if grouped
        else (slice(c, min(c + step, columns)), slice(int(offsets[c]), int(offsets[min(c + step, columns)])))
        for c in ends
    ]
