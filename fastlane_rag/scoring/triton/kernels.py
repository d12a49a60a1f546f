"""MaxSim of rows on a GPU, in Triton: the kernels, which `triton.backend` launches. Documents in code: `triton.codes`.

A program scores one document against a block of query tokens. It reads the document's rows once, keeps similarities in
registers, and writes one score per query (and for the gradient one row per token).
"""

# The kernels' arguments are pointers and compile-time constants, which a type checker cannot check.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator,import-untyped"

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["COUNTS", "bag_kernel", "maxsim_kernel"]

COUNTS = ["query_count", "query_tokens", "columns"]


@triton.jit(do_not_specialize=COUNTS)
def maxsim_kernel(
    queries,  # (Tq, DIM) rows of all queries
    weights,  # (Tq,) float32
    slots,  # (Nq * SLOTS,) int64: the row of `queries` in each query's slots, -1 in unused ones
    documents,  # (T, DIM) rows of all documents
    starts,  # (Nd,) int64
    lengths,  # (Nd,) int64
    scores,  # (Nq, Nd) float32 out; (Nq, N) when GROUPED
    values,  # (Nd, Tq) float32 out if KEEP, the maxima; (N, Tq) when GROUPED
    argmax,  # (Nd, Tq) int64 out if KEEP, their rows
    query_count,
    query_tokens,  # Tq
    columns,  # Nd, or N when GROUPED
    DIM: tl.constexpr,
    SLOTS: tl.constexpr,  # of a query, a multiple of 16
    BLOCK_Q: tl.constexpr,  # slots scored together, a divisor or multiple of SLOTS
    BLOCK_D: tl.constexpr,  # document rows read together
    BLOCK_K: tl.constexpr,  # dimensions multiplied together
    SPLIT: tl.constexpr,  # queries have more digits than documents: multiply them in two parts
    PRECISION: tl.constexpr,  # of products of float32; "tf32x3" is as exact as float32 for this purpose
    GROUPED: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Score one document against the queries of one block of slots."""
    together: tl.constexpr = BLOCK_Q // SLOTS if BLOCK_Q > SLOTS else 1  # queries of one program
    program = tl.program_id(0).to(tl.int64)
    if GROUPED:
        document = program
        first_query = document // columns
        column = document % columns
    else:
        # Programs of one document run side by side, so that its rows are read from memory once.
        blocks = tl.cdiv(query_count, together)
        document = program // blocks
        first_query = (program % blocks) * together
        column = document
    start = tl.load(starts + document)
    length = tl.load(lengths + document)
    owners = first_query + tl.arange(0, together)
    total = tl.zeros((together,), tl.float32)

    for slot in range(0, SLOTS, BLOCK_Q):
        slot_numbers = first_query * SLOTS + slot + tl.arange(0, BLOCK_Q)
        rows = tl.load(slots + slot_numbers, slot_numbers < query_count * SLOTS, -1)
        best = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        where = tl.full((BLOCK_Q,), -1, tl.int64)
        query = _load_rows(queries, rows, rows >= 0, 0, DIM, BLOCK_K)
        for token in range(0, length, BLOCK_D):
            tokens = token + tl.arange(0, BLOCK_D)
            similarity = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
            present = tokens < length
            for k in range(0, DIM, BLOCK_K):
                part = _load_rows(documents, start + tokens, present, k, DIM, BLOCK_K)
                if DIM > BLOCK_K:
                    query = _load_rows(queries, rows, rows >= 0, k, DIM, BLOCK_K)
                similarity = _multiply_add(query, part, similarity, SPLIT, PRECISION)
            # A maximum would drop NaN. Replace it by infinity, which is replaced by NaN again below.
            similarity = tl.where(similarity == similarity, similarity, float("inf"))
            similarity = tl.where(present[None, :], similarity, float("-inf"))
            if KEEP:
                block_best, block_where = tl.max(similarity, 1, return_indices=True)
                where = tl.where(block_best > best, start + token + block_where, where)
            else:
                block_best = tl.max(similarity, 1)
            best = tl.maximum(best, block_best)
        best = tl.where(best == float("inf"), float("nan"), best)
        if KEEP:
            target = column * query_tokens + rows
            tl.store(values + target, best, rows >= 0)
            tl.store(argmax + target, where, rows >= 0)
        weighted = tl.where(rows >= 0, best * tl.load(weights + rows, rows >= 0, 0.0), 0.0)
        total += tl.sum(tl.reshape(weighted, (together, BLOCK_Q // together)), 1)

    total = tl.where(length > 0, total, float("-inf"))
    tl.store(scores + owners * columns + column, total, owners < query_count)


@triton.jit
def _load_rows(table, rows, present, first_dim, DIM: tl.constexpr, BLOCK_K: tl.constexpr):
    """A (rows, BLOCK_K) part of a table of DIM columns, zero where not present."""
    dims = first_dim + tl.arange(0, BLOCK_K)
    return tl.load(table + rows[:, None] * DIM + dims[None, :], present[:, None] & (dims < DIM)[None, :], 0.0)


@triton.jit
def _multiply_add(query, document, similarity, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """Similarity plus query @ document.T, in float32."""
    high = query.to(document.dtype)
    turned = tl.trans(document)
    similarity = tl.dot(high, turned, similarity, input_precision=PRECISION)
    if SPLIT:
        low = (query - high.to(query.dtype)).to(document.dtype)
        similarity = tl.dot(low, turned, similarity, input_precision=PRECISION)
    return similarity


@triton.jit
def bag_kernel(
    rows,  # (T, DIM)
    indices,  # (E,) int64 into rows
    factors,  # (E,) float32
    starts,  # (B + 1,) int64
    sums,  # (B, DIM) float32 out
    DIM: tl.constexpr,
    BLOCK_E: tl.constexpr,  # entries read together
    BLOCK_K: tl.constexpr,  # dimensions of one program
):
    """Sum factors[e] * rows[indices[e]] over one bag's entries e."""
    bag = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = dims < DIM
    total = tl.zeros((BLOCK_K,), tl.float32)
    end = tl.load(starts + bag + 1)
    for first in range(tl.load(starts + bag), end, BLOCK_E):
        entries = first + tl.arange(0, BLOCK_E)
        index = tl.load(indices + entries, entries < end, 0)
        factor = tl.load(factors + entries, entries < end, 0.0)
        values = tl.load(rows + index[:, None] * DIM + dims[None, :], inside[None, :], 0.0)
        total += tl.sum(values.to(tl.float32) * factor[:, None], 0)
    tl.store(sums + bag * DIM + dims, total, inside)
