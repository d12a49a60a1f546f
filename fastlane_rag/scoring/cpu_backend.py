"""MaxSim on the CPU with the compiled kernels: prepares their arguments and shares the work among threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.codes import Codebook, Codes
from fastlane_rag.scoring.inputs import Packed, Rows
from fastlane_rag.scoring.numba_found import has_numba
from fastlane_rag.scoring.threads import get_threads
from fastlane_rag.scoring.torch.backend import bag, query_blocks

if TYPE_CHECKING:
    from fastlane_rag.scoring.coded import CodedDocuments

__all__ = ["CodedQuery", "bag", "coded_query", "scores", "supports", "token_maxima"]

_WORTH_A_THREAD = 4_000_000  # multiply-adds: fewer take less time than waking a thread that sleeps
_RANGES = 4  # a thread, which takes the next one when it is done: documents differ, and a thread may wake late
_FEW_NEAR = 16  # of so many rows one is near a query, or the walk over the others takes as long
_TABLE_BYTES = 64 << 20  # of the products of query tokens with centroids
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of the kernels' numbers for them


class _Modules(NamedTuple):
    """The tile geometry, the kernels for rows and those for codes, and the threads they run in."""

    geometry: ModuleType
    kernels: ModuleType
    code_kernels: ModuleType
    team: ModuleType


class _InBytes(NamedTuple):
    """A query as the code kernels take it.

    Attributes:
        granules: of a tile, C tokens.
        numbers: (tiles, words, C, 4) int8: query times steps, in units of the token.
        tables: (tiles, K, C): query times centroid, less query times steps times the middle level.
        units: (tiles, C): what one step of a number is worth.
        middle: (tiles, C): query times steps times the middle level.
    """

    granules: tuple[int, ...]
    numbers: NDArray[np.int8]
    tables: NDArray[np.float32]
    units: NDArray[np.float32]
    middle: NDArray[np.float32]


@cache
def _modules() -> _Modules | None:
    """What needs numba; None where it cannot run."""
    if not has_numba():
        return None
    from fastlane_rag.scoring import cpu_code_kernels, cpu_ir, cpu_kernels, cpu_team

    return _Modules(cpu_ir, cpu_kernels, cpu_code_kernels, cpu_team) if cpu_ir.can_widen_halfs() else None


def supports(queries: torch.Tensor, documents: Rows) -> bool:
    """Whether the compiled kernels are there and take these rows."""
    if documents.device.type != "cpu" or queries.dtype not in _DTYPES or documents.shape[1] == 0:
        return False
    modules = _modules()
    if modules is None:
        return False
    return bool(modules.geometry.has_byte_dot()) if isinstance(documents, Codes) else documents.dtype in _DTYPES


def scores(
    queries: Packed[torch.Tensor],
    documents: Packed[Rows],
    weights: torch.Tensor | None,
    *,
    grouped: bool,
    keep_argmax: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Score queries against documents; arguments and results as `torch_backend.scores`."""
    queries, documents = queries.on("cpu"), documents.on("cpu")
    columns = len(documents) // max(len(queries), 1) if grouped else len(documents)
    offsets, rows = queries.offsets, _float32(queries.rows)
    factors = np.ones(len(rows), np.float32) if weights is None else _float32(weights)
    result = np.empty((len(queries), columns), np.float32)
    argmax = np.empty((len(rows), columns), np.int64) if keep_argmax else None

    for first, last in query_blocks(offsets, _most_tokens(documents.rows), grouped):
        bounds = offsets[first : last + 1].numpy()
        tokens = slice(bounds[0], bounds[-1])
        here = slice(first * columns, last * columns) if grouped else slice(None)
        some = Packed(documents.rows, documents.starts[here], documents.lengths[here])
        totals = bounds - bounds[0], factors[tokens], result[first:last]
        if argmax is None:
            _scan(rows[tokens], some, *totals)
        else:
            argmax[tokens] = _match(rows[tokens], some, *totals)[1].T
    return torch.from_numpy(result), None if argmax is None else torch.from_numpy(argmax)


def token_maxima(query: torch.Tensor, documents: Packed[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best match of each query token in each document; as `torch_backend.token_maxima`."""
    no_query = np.zeros(1, np.int64), np.empty(0, np.float32), np.empty((0, len(documents)), np.float32)
    values, argmax = _match(_float32(query), documents.on("cpu"), *no_query)
    return torch.from_numpy(values), torch.from_numpy(argmax)


def _most_tokens(rows: Rows) -> int:
    """Query tokens to score at once: codes need a table of all centroids for each."""
    return _TABLE_BYTES // (4 * len(rows.codebook.centroids)) if isinstance(rows, Codes) else 1 << 16


def _match(
    query: NDArray[np.float32], documents: Packed[Rows], *totals: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    shape = len(documents), len(query)
    values, argmax = np.empty(shape, np.float32), np.empty(shape, np.int64)
    _scan(query, documents, *totals, values, argmax)
    return values, argmax


def _scan(query: NDArray[np.float32], documents: Packed[Rows], *outputs: NDArray[np.generic]) -> None:
    """Run a kernel over the documents, in as many threads as the work is worth.

    The outputs are what the kernels take after their documents; with five of them they also match.
    """
    modules = _modules()
    if len(documents) == 0 or modules is None:
        return
    geometry, kernels, code_kernels, team = modules
    match = len(outputs) == 5
    rows, place = documents.rows, (documents.starts.numpy(), documents.lengths.numpy())
    if isinstance(rows, Codes):
        kernel = code_kernels.match_codes if match else code_kernels.score_codes
        prepared, book = _in_bytes(query, rows.codebook, modules), rows.codebook
        pack = np.array([rows.addresses]), book.width, book.bits, book.dim, np.zeros(len(documents), np.int64)
        fixed = prepared.granules, *pack, *place, *prepared[1:4], *outputs
    else:
        kernel = kernels.match_documents if match else kernels.score_documents
        rows = rows.detach().contiguous()
        granules, tiles = _tiles(query, geometry)
        fixed = granules, rows.data_ptr(), _DTYPES.index(rows.dtype), *place, tiles, *outputs
    team.run(kernel, *_shares(len(documents), int(place[1].sum()), query.size), fixed)


class CodedQuery:
    """What `fastlane_rag.scoring.coded.CodedQuery` keeps of a query for the compiled kernels."""

    def __init__(self, query: torch.Tensor, book: Codebook, modules: _Modules) -> None:
        self._kernels, self._team = modules.code_kernels, modules.team
        self._weights = np.ones(len(query), np.float32)
        self._query = _in_bytes(_float32(query), book, modules)
        tables = self._query.tables
        self.products: NDArray[np.float32] = tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)

    def scores(self, documents: CodedDocuments, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
        """What `fastlane_rag.scoring.coded.CodedQuery.scores` says."""
        result: NDArray[np.float32] = np.empty((1, len(numbers)), np.float32)
        kernel, tokens = self._kernels.score_codes, len(self._weights)
        rows = self._run(kernel, self._query, tokens, documents, numbers, self._weights, result)
        return result[0], rows

    def near_scores(
        self,
        documents: CodedDocuments,
        numbers: NDArray[np.int64],
        tokens: int,
        near: NDArray[np.bool_],
        least: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], int]:
        """What `fastlane_rag.scoring.coded.CodedQuery.near_scores` says."""
        result: NDArray[np.float32] = np.empty((1, len(numbers)), np.float32)
        met = np.zeros(len(numbers), np.int64)
        marks = np.zeros(1 << 16, np.uint8)  # a damaged file may name centroids that do not exist
        marks[: len(near)] = near
        granules, rounded, tables, units, middle = self._query
        # A narrower tile, if one holds these tokens; the tables are those of all.
        granule, tiles = rounded.shape[2] // len(granules), -(-tokens // rounded.shape[2])
        if tiles == 1:
            granules = granules[: -(-tokens // granule)]
        rounded, units, floors = self._kernels.narrow(rounded, units, middle, least, tiles, granule * len(granules))
        query = self._query._replace(granules=granules, numbers=rounded, tables=tables[:tiles], units=units)
        outputs = self._weights[:tokens], marks, floors, result, met
        self._run(self._kernels.score_near, query, tokens, documents, numbers, *outputs, one_of=_FEW_NEAR)
        return result[0], int(met.sum())

    def _run(
        self,
        kernel: Callable[..., None],
        query: _InBytes,
        tokens: int,
        documents: CodedDocuments,
        numbers: NDArray[np.int64],
        *outputs: NDArray[np.generic],
        one_of: int = 1,
    ) -> int:
        """Run a kernel over documents, of whose rows one of so many is scored; how many rows they have."""
        places = np.empty((3, len(numbers)), np.int64)
        known = documents.firsts, documents.counts, documents.offset_addresses, documents.rows
        rows = self._kernels.locate(numbers, *known, *places)
        if rows < 0:
            raise ValueError("the offsets of the documents do not divide their rows, or there is no such document")
        if len(numbers):
            book = documents.codebook
            described = documents.addresses, book.width, book.bits, book.dim, *places
            fixed = query.granules, *described, *query[1:4], np.array([0, tokens]), *outputs
            self._team.run(kernel, *_shares(len(numbers), rows, tokens * book.dim // one_of), fixed)
        return int(rows)


def coded_query(query: torch.Tensor, book: Codebook) -> CodedQuery | None:
    """The query made ready for documents of this codebook; None where the kernels for codes cannot run."""
    modules = _modules()
    if modules is None or not modules.geometry.has_byte_dot():
        return None
    fits = query.dtype in _DTYPES and query.device.type == "cpu" and book.dim > 0
    return CodedQuery(query, book, modules) if fits else None


def _shares(count: int, rows: int, multiply_adds: int) -> tuple[list[int], int]:
    """Ranges to share among the threads that are worth using, and how many these are.

    Args:
        count: of what is shared.
        rows: of all of it.
        multiply_adds: of a row.
    """
    threads = max(1, min(get_threads(), count, rows * multiply_adds // _WORTH_A_THREAD))
    ranges = min(count, threads * _RANGES) if threads > 1 else 1
    return [count * n // ranges for n in range(ranges + 1)], threads


def _geometry(tokens: int, geometry: ModuleType) -> tuple[int, tuple[int, ...]]:
    """How many equal tiles so many query tokens fill, and the granules of one."""
    count = -(-tokens // (geometry.GRANULE * geometry.MAX_GRANULES))
    granules = -(-tokens // (geometry.GRANULE * max(count, 1)))
    return count, (0,) * max(granules, 1)


def _tiles(query: NDArray[np.float32], geometry: ModuleType) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """Cut (Tq, dim) query tokens into granules and tiles (tiles, dim, C), padded with zeros."""
    count, granules = _geometry(len(query), geometry)
    width = len(granules) * geometry.GRANULE
    tiles = np.zeros((count, query.shape[1], width), np.float32)
    for t in range(count):
        part = query[t * width : (t + 1) * width]
        tiles[t, :, : len(part)] = part.T
    return granules, tiles


def _in_bytes(query: NDArray[np.float32], book: Codebook, modules: _Modules) -> _InBytes:
    """Round a query for the code kernels, and multiply it with the centroids."""
    count, granules = _geometry(len(query), modules.geometry)
    width = len(granules) * modules.geometry.GRANULE
    centroids, center, steps = book.in_bytes
    numbers, units, middle, *of_centroids = modules.code_kernels.round_query(
        query, count, width, book.steps.numpy(), (2**book.bits - 1) / 2, center, steps
    )
    rows = len(centroids)
    if rows < modules.geometry.TILE_ROWS:
        centroids = np.resize(centroids, (modules.geometry.TILE_ROWS, centroids.shape[1]))
    tables = np.empty((count, len(centroids), width), np.float32)
    fixed = granules, centroids, *of_centroids, tables
    modules.team.run(modules.code_kernels.multiply, *_shares(len(centroids), len(centroids), query.size), fixed)
    return _InBytes(granules, numbers[0], np.ascontiguousarray(tables[:, :rows]), units[0], middle)


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
