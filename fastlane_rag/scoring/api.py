"""The public functions of the scoring core.

    SumMaxSim(Q, D) = sum_i max_j Q_i . D_j

Similarity is the plain dot product: normalise the embeddings for cosine.
"""

from __future__ import annotations

import torch

from fastlane_rag.scoring import backends
from fastlane_rag.scoring.autograd import differentiable_scores
from fastlane_rag.scoring.codes import Codes
from fastlane_rag.scoring.inputs import (
    Array,
    Request,
    Rows,
    pack,
    pack_documents,
    pack_groups,
    pack_weights,
)

__all__ = ["maxsim", "maxsim_groups", "token_maxima"]


def maxsim(
    queries: Array,
    documents: Array | Codes,
    *,
    query_offsets: Array | None = None,
    document_offsets: Array | None = None,
    query_mask: Array | None = None,
    document_mask: Array | None = None,
    query_weights: Array | None = None,
    selection: Array | None = None,
) -> torch.Tensor:
    """Score every query against every document.

    Queries may be padded or packed, and so may documents. Tensors may be float64, float32, float16 or bfloat16,
    also mixed; products are accumulated in float32 (float64 for float64). Scoring runs in blocks, so it needs
    little memory beyond the result, however many documents there are. Gradients flow to queries, documents and
    weights.

    Args:
        queries: (Nq, Lq, d) padded, (sum Lq, d) packed, or (Lq, d), one query, without offsets.
        documents: (Nd, Ld, d) padded, (sum Ld, d) packed, or packed in code, on the queries' device.
        query_offsets: (Nq + 1,) int64 for packed queries: query n owns rows offsets[n]:offsets[n + 1].
        document_offsets: (Nd + 1,) int64 for packed documents. On a CUDA device, offsets kept on the CPU
            save a synchronisation.
        query_mask: (Nq, Lq) bool for padded queries, true at real tokens.
        document_mask: (Nd, Ld) bool for padded documents.
        query_weights: float, shaped like `queries` without the last axis; multiplies each token's maximum.
        selection: (n,) int64, for packed documents: score only documents with these numbers, in this order.
            Nothing is copied, and only their offsets are read and checked.

    Returns:
        (Nq, Nd), or (Nq, n), float32 (float64 if an input is). A document without tokens scores -inf; a query without
        tokens scores 0.

    Raises:
        TypeError: embeddings or weights are not floating point.
        ValueError: shapes, offsets, masks or devices do not fit together.

    Example:
        >>> query = torch.eye(2)
        >>> documents = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> maxsim(query, documents, document_offsets=torch.tensor([0, 2, 3]))
        tensor([[2.0000, 1.4000]])
    """
    packed_queries = pack("queries", queries, query_offsets, query_mask)
    packed_documents = pack_documents(documents, document_offsets, document_mask, selection)
    weights = pack_weights(query_weights, queries, query_mask)
    _check_together(packed_queries.rows, packed_documents.rows, weights, queries.shape, documents.shape)
    return _scores(Request(packed_queries, packed_documents, weights))


def maxsim_groups(
    queries: Array,
    documents: Array,
    *,
    query_mask: Array | None = None,
    document_mask: Array | None = None,
    query_weights: Array | None = None,
) -> torch.Tensor:
    """Score each query against its own documents.

    Args:
        queries: (B, Lq, d).
        documents: (B, N, Ld, d): the N documents of each query.
        query_mask: (B, Lq) bool, true at real tokens.
        document_mask: (B, N, Ld) bool.
        query_weights: (B, Lq) float; multiplies each token's maximum.

    Returns:
        (B, N), otherwise as `maxsim`.

    Raises:
        TypeError: embeddings or weights are not floating point.
        ValueError: shapes, masks or devices do not fit together.
    """
    if queries.ndim != 3:
        raise ValueError(f"queries must be (B, L, dim), but the shape is {tuple(queries.shape)}")
    packed_queries = pack("queries", queries, None, query_mask)
    packed_documents = pack_groups(documents, document_mask)
    weights = pack_weights(query_weights, queries, query_mask)
    if queries.shape[0] != documents.shape[0]:
        raise ValueError(
            f"queries {tuple(queries.shape)} and documents {tuple(documents.shape)} must have the same first size"
        )
    _check_together(packed_queries.rows, packed_documents.rows, weights, queries.shape, documents.shape)
    if len(packed_queries) == 0:
        return packed_queries.rows.new_zeros(documents.shape[:2], dtype=torch.float32)
    return _scores(Request(packed_queries, packed_documents, weights, grouped=True))


def token_maxima(
    query: Array, documents: Array | Codes, document_offsets: Array, *, selection: Array | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the best match of each query token in each document: the terms that SumMaxSim adds up.

    Args:
        query: (Lq, d).
        documents: (sum Ld, d) packed, or packed in code.
        document_offsets: (Nd + 1,) int64.
        selection: (n,) int64: only documents with these numbers, in this order.

    Returns:
        Values (Nd, Lq) float32 (float64 if an input is) and argmax (Nd, Lq) int64 into the rows of
        `documents`; -inf and -1 for a document without tokens. Not differentiable.

    Raises:
        TypeError: embeddings are not floating point.
        ValueError: shapes, offsets or devices do not fit together.
    """
    if query.ndim != 2:
        raise ValueError(f"query must be (L, dim), one query, but the shape is {tuple(query.shape)}")
    packed_query = pack("queries", query, None, None)
    packed_documents = pack_documents(documents, document_offsets, None, selection)
    _check_together(packed_query.rows, packed_documents.rows, None, query.shape, documents.shape)
    with torch.no_grad():
        backend = backends.choose(packed_query.rows, packed_documents.rows)
        return backend.token_maxima(packed_query.rows, packed_documents)


def _scores(request: Request) -> torch.Tensor:
    queries, documents = request.queries.rows, request.documents.rows
    inputs = queries, documents, request.weights
    if torch.is_grad_enabled() and any(isinstance(t, torch.Tensor) and t.requires_grad for t in inputs):
        if isinstance(documents, Codes):
            raise ValueError("documents in code have no gradient; decode them, or use torch.no_grad()")
        return differentiable_scores(request)
    return backends.choose(queries, documents).scores(request)[0]


def _check_together(
    queries: torch.Tensor,
    documents: Rows,
    weights: torch.Tensor | None,
    query_shape: tuple[int, ...],
    document_shape: tuple[int, ...],
) -> None:
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"queries {tuple(query_shape)} and documents {tuple(document_shape)} differ in their last size, "
            f"the embedding dimension: {queries.shape[1]} and {documents.shape[1]}"
        )
    devices = {str(t.device) for t in (queries, documents, weights) if t is not None}
    if len(devices) > 1:
        raise ValueError(f"queries, documents and weights must be on one device, but are on {sorted(devices)}")
