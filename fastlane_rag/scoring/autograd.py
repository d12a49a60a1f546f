"""The gradient of MaxSim: a sparse matrix with one entry per query token and document.

The forward pass keeps only the argmax. Let G[i, n] be the weighted gradient of token i's maximum in document n. Then
dQ[i] = sum_n G[i, n] D[argmax[i, n]], a weighted sum of document rows (a "bag"), and dD is the transpose. Sorting the
entries by document row turns dD into bags too. So no matrix of size Lq x Ld is needed, and the sums are repeatable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from fastlane_rag.scoring import backends
from fastlane_rag.scoring.inputs import Request
from fastlane_rag.scoring.torch.backend import block_elements, compute_dtype

__all__ = ["differentiable_scores"]


def differentiable_scores(request: Request) -> torch.Tensor:
    """Score as a backend's `scores`, with gradients to query rows, document rows and weights."""
    inputs = request.queries.rows, request.documents.rows, request.weights
    result: torch.Tensor = _MaxSim.apply(*inputs, request)  # type: ignore[no-untyped-call]
    return result


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_rows: torch.Tensor,
        document_rows: torch.Tensor,
        weights: torch.Tensor | None,
        request: Request,
    ) -> torch.Tensor:
        backend, queries, documents = backends.choose(query_rows, document_rows), request.queries, request.documents
        result, argmax = backend.scores(replace(request, keep_argmax=True))
        ctx.save_for_backward(query_rows, document_rows, weights, argmax)
        ctx.queries_of_tokens = torch.arange(len(queries), device=queries.lengths.device).repeat_interleave(
            queries.lengths
        )
        ctx.starts, ctx.lengths = documents.starts, documents.lengths
        ctx.grouped, ctx.backend = request.grouped, backend
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_rows, document_rows, weights, argmax = ctx.saved_tensors
        dtype = compute_dtype(query_rows, document_rows)
        queries = query_rows.to(dtype)
        factor = None if weights is None else weights.to(dtype)[:, None]
        grad = grad.to(dtype)[ctx.queries_of_tokens.to(grad.device)]  # (Tq, columns)
        # An empty document matches nothing; its score is a constant.
        grad = grad.masked_fill(argmax < 0, 0)

        bags = torch.zeros_like(queries)
        grad_documents = torch.zeros_like(document_rows) if ctx.needs_input_grad[1] else None
        for columns, span in _blocks(argmax, document_rows, ctx.starts.cpu(), ctx.lengths.cpu(), ctx.grouped):
            here = (argmax[:, columns] - span.start).clamp_(min=0)
            part = grad[:, columns].contiguous()
            starts = torch.arange(0, here.numel(), here.shape[1], device=here.device)
            bags += ctx.backend.bag(document_rows[span], here.flatten(), part.flatten(), starts)
            if grad_documents is not None:
                scaled = part if factor is None else part * factor
                ordered, order = here.flatten().sort(stable=True)
                starts = torch.searchsorted(ordered, torch.arange(span.stop - span.start, device=here.device))
                tokens = order // here.shape[1]
                sums = ctx.backend.bag(query_rows, tokens, scaled.flatten()[order], starts)
                grad_documents[span] = sums.to(grad_documents.dtype)

        # The maxima are not kept, and not needed: sum_n grad * maximum is the product of the query row and its bag.
        grad_weights = (queries * bags).sum(1).to(weights.dtype) if ctx.needs_input_grad[2] else None
        grad_queries = (bags if factor is None else bags * factor).to(query_rows.dtype)
        return grad_queries, grad_documents, grad_weights, None


def _blocks(
    argmax: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, grouped: bool
) -> Iterator[tuple[slice, slice]]:
    """Cut `argmax` into column ranges within the memory budget, each with the document rows it points into.

    There is a single block for groups and selections, whose documents need not lie one after another.
    """
    tokens, columns = argmax.shape
    if grouped or not bool((starts[1:] == starts[:-1] + lengths[:-1]).all()):
        if argmax.numel() and len(rows):
            yield slice(0, columns), slice(0, len(rows))
        return
    step = max(block_elements(argmax) // max(tokens, 1), 1)
    for first in range(0, columns, step):
        last = min(first + step, columns) - 1
        span = slice(int(starts[first]), int(starts[last] + lengths[last]))
        if tokens and span.start < span.stop:
            yield slice(first, last + 1), span
