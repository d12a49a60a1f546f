"""MaxSim on the CPU with the compiled kernels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.codes import Codes
from fastlane_rag.scoring.inputs import Packed, Request, Rows
from fastlane_rag.scoring.native import kernels
from fastlane_rag.scoring.torch.backend import bag, query_blocks

__all__ = ["available", "bag", "scores", "token_maxima"]

_TABLE_BYTES = 64 << 20  # at most, for the products of query tokens and centroids
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of the kernels' numbers for them


def available(device: torch.device) -> bool:
    """Whether the compiled kernels are there."""
    return kernels.available()


def scores(request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; see `Backend`."""
    queries, documents, columns = request.queries.on("cpu"), request.documents.on("cpu"), request.columns
    offsets, rows = queries.offsets, _float32(queries.rows)
    factors = None if request.weights is None else _float32(request.weights)
    result = np.empty((len(queries), columns), np.float32)
    argmax = np.empty((len(rows), columns), np.int64) if request.keep_argmax else None

    for first, last in query_blocks(offsets, _most_tokens(documents.rows), request.grouped):
        bounds = offsets[first : last + 1].numpy()
        tokens = slice(bounds[0], bounds[-1])
        here = slice(first * columns, last * columns) if request.grouped else slice(None)
        some = Packed(documents.rows, documents.starts[here], documents.lengths[here])
        totals = bounds - bounds[0], None if factors is None else factors[tokens], result[first:last]
        if argmax is None:
            _scan(rows[tokens], some, kernels.Totals(*totals))
        else:
            argmax[tokens] = _match(rows[tokens], some, *totals)[1].T
    return torch.from_numpy(result), None if argmax is None else torch.from_numpy(argmax)


def token_maxima(query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; see `Backend`."""
    no_query = np.zeros(1, np.int64), None, np.empty((0, len(documents)), np.float32)
    values, argmax = _match(_float32(query), documents.on("cpu"), *no_query)
    return torch.from_numpy(values), torch.from_numpy(argmax)


def _most_tokens(rows: Rows) -> int:
    """Query tokens to score at once; each needs a table of products with all centroids where rows are in code."""
    return _TABLE_BYTES // (4 * len(rows.codebook.centroids)) if isinstance(rows, Codes) else 1 << 16


def _match(
    query: NDArray[np.float32],
    documents: Packed[Rows],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    sums: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Write scores to `sums`; return each token's maximum in each document and its row, both (n, Tq)."""
    shape = len(documents), len(query)
    matches = np.empty(shape, np.float32), np.empty(shape, np.int64)
    _scan(query, documents, kernels.Totals(offsets, weights, sums, matches))
    return matches


def _scan(query: NDArray[np.float32], documents: Packed[Rows], totals: kernels.Totals) -> None:
    """Run a kernel over the documents."""
    if len(documents) == 0:
        return
    rows, starts, lengths = documents.rows, documents.starts.numpy(), documents.lengths.numpy()
    if isinstance(rows, Codes):
        where = kernels.Documents.of_pack(rows.addresses, starts, lengths)
        kernels.Query(query, rows.codebook.for_kernels, where).score(where, totals)
    else:
        rows = rows.detach().contiguous()
        kernels.score_rows(query, rows.data_ptr(), _DTYPES.index(rows.dtype), starts, lengths, totals)


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
