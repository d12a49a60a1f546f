"""MaxSim in plain torch, on any device, over blocks of documents that fit a memory budget.

Documents of similar length share a block. They are padded by repeating their last token, which cannot change a maximum,
so no mask and no -inf is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import embedding_bag

from fastlane_rag.scoring.codes import Codes
from fastlane_rag.scoring.inputs import Packed, Request, Rows

__all__ = ["bag", "block_elements", "compute_dtype", "query_blocks", "scores", "token_maxima"]

# The similarities of one block: on a CPU they should fit the last-level cache, elsewhere memory.
CPU_BLOCK_BYTES = 4 << 20
DEVICE_BLOCK_BYTES = 256 << 20


def scores(request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; see `Backend`."""
    weights, grouped, keep_argmax, columns = request.weights, request.grouped, request.keep_argmax, request.columns
    queries, documents = request.queries.on("cpu"), request.documents.on("cpu")
    dtype = compute_dtype(queries.rows, documents.rows)
    device = queries.rows.device
    result = torch.full((len(queries), columns), -torch.inf, dtype=dtype, device=device)
    argmax = None
    if keep_argmax:
        argmax = torch.full((len(queries.rows), columns), -1, dtype=torch.int64, device=device)

    budget = block_elements(documents.rows)
    starts, lengths, offsets = documents.starts, documents.lengths, queries.offsets
    for first, last in query_blocks(offsets, budget // 1024, grouped):
        token_from, token_to = int(offsets[first]), int(offsets[last])
        rows = queries.rows[token_from:token_to].to(dtype)
        owner = torch.repeat_interleave(torch.arange(last - first), queries.lengths[first:last]).to(device)
        base = first * columns if grouped else 0
        window = slice(base, base + columns)
        for block in _document_blocks(starts[window], lengths[window], budget // max(len(rows), 1)):
            values, best = block_maxima(rows, documents.rows, *block, keep_argmax=keep_argmax)
            if weights is not None:
                values = values * weights[token_from:token_to].to(dtype)
            here = block[0].to(device)
            totals = values.new_zeros(last - first, len(here)).index_add_(0, owner, values.T)
            result[first:last, here] = totals
            if argmax is not None and best is not None:
                argmax[token_from:token_to, here] = best.T
    return result, argmax


def token_maxima(query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; see `Backend`."""
    documents = documents.on("cpu")
    dtype = compute_dtype(query, documents.rows)
    shape = (len(documents), len(query))
    values = torch.full(shape, -torch.inf, dtype=dtype, device=query.device)
    argmax = torch.full(shape, -1, dtype=torch.int64, device=query.device)
    rows = query.to(dtype)
    limit = block_elements(documents.rows) // max(len(query), 1)
    for block in _document_blocks(documents.starts, documents.lengths, limit):
        best_values, best = block_maxima(rows, documents.rows, *block, keep_argmax=True)
        here = block[0].to(query.device)
        values[here] = best_values
        if best is not None:
            argmax[here] = best
    return values, argmax


def bag(rows: torch.Tensor, indices: torch.Tensor, factors: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Sum weighted rows bag by bag; see `Backend`."""
    return embedding_bag(indices, rows.to(factors.dtype), starts, per_sample_weights=factors, mode="sum")


def compute_dtype(*tensors: Rows) -> torch.dtype:
    """Float64 when any tensor is float64, else float32; sums are never computed in half precision."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def block_elements(rows: Rows) -> int:
    """How many float32 similarities one block may hold on the device of `rows`."""
    return (CPU_BLOCK_BYTES if rows.device.type == "cpu" else DEVICE_BLOCK_BYTES) // 4


def block_maxima(
    query: torch.Tensor,
    rows: Rows,
    documents: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    *,
    keep_argmax: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Match a query's tokens with one block of non-empty documents.

    Args:
        query: (Lq, d) in the dtype to compute in.
        rows: (T, d) document rows, any floating dtype or in code.
        documents: (n,) the documents' numbers; unused, but part of a block.
        starts: (n,) int64 first row of each document.
        lengths: (n,) int64, ascending, at least 1.
        keep_argmax: also return the matched rows.

    Returns:
        (n, Lq) maxima and, when asked for, (n, Lq) int64 rows.
    """
    count, width = len(starts), int(lengths[-1])
    begin = int(starts[0])
    if bool((lengths == width).all()) and bool((starts.diff() == width).all()):
        tokens = _take(rows, slice(begin, begin + count * width))
    else:
        position = torch.arange(width).minimum(lengths[:, None] - 1)
        tokens = _take(rows, (starts[:, None] + position).flatten().to(rows.device))
    similarity = (tokens.to(query.dtype) @ query.T).view(count, width, len(query))
    if not keep_argmax:
        return similarity.amax(1), None
    values, position = similarity.max(1)
    position = position.minimum((lengths[:, None] - 1).to(position.device))
    return values, position + starts[:, None].to(position.device)


def _take(rows: Rows, which: slice | torch.Tensor) -> torch.Tensor:
    return rows.decode(which) if isinstance(rows, Codes) else rows[which]


def query_blocks(offsets: torch.Tensor, most: int, grouped: bool) -> Iterator[tuple[int, int]]:
    """Ranges of queries with about `most` tokens; single queries when grouped."""
    if grouped:
        yield from ((i, i + 1) for i in range(len(offsets) - 1))
        return
    if int(offsets[-1]) <= most:
        yield 0, len(offsets) - 1
        return
    first = 0
    while first < len(offsets) - 1:
        fits = int(torch.searchsorted(offsets, offsets[first] + most, right=True)) - 1
        last = max(fits, first + 1)
        yield first, last
        first = last


def _document_blocks(
    starts: torch.Tensor, lengths: torch.Tensor, most: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut the non-empty documents, by length, into blocks of about `most` padded tokens.

    Yields the documents' numbers, starts and lengths. The longest document of a block has at most a
    quarter plus eight more tokens than the shortest, which bounds the padding.
    """
    numbers = lengths.nonzero()[:, 0]
    uniform = len(numbers) > 0 and bool((lengths[numbers] == lengths[numbers[0]]).all())
    if not uniform:
        numbers = numbers[lengths[numbers].argsort(stable=True)]
    starts, lengths = starts[numbers], lengths[numbers]
    first = 0
    while first < len(numbers):
        shortest = int(lengths[first])
        window = lengths[first : first + max(most // shortest, 1)]
        padded = torch.arange(1, len(window) + 1) * window
        fits = (padded <= most) & (window <= shortest + shortest // 4 + 8)
        last = first + max(int(fits.sum()), 1)
        yield numbers[first:last], starts[first:last], lengths[first:last]
        first = last
