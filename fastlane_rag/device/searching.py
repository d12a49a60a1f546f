"""Searching on a device: compare some query tokens with all documents, and all query tokens with the best of these.

Nothing waits for the host on the way. What comes back is one copy of a few hundred numbers and scores a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.device.resident import Collection
from fastlane_rag.device.sending import LONGEST, Asked, Sent, Shape, received, sent
from fastlane_rag.scoring import backends
from fastlane_rag.scoring.inputs import Packed, Request, Rows

__all__ = ["Asked", "Chosen", "search"]


@dataclass(frozen=True)
class Chosen:
    """The documents chosen for one query.

    Attributes:
        numbers: (C,) int64, ascending.
        scores: (C,) float32.
        own: how many were chosen by score, and not by `also` alone.
    """

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    own: int


def search(
    collection: Collection,
    gathering: Asked,
    refining: Asked | None,
    allowed: torch.Tensor | None,
    depth: int,
    also: Sequence[NDArray[np.int64]] | None = None,
    *,
    record_after: int | None = None,
) -> list[Chosen]:
    """Score all documents, and choose the best for each query.

    Args:
        collection: N documents.
        gathering: what all documents are scored with.
        refining: what the chosen ones are scored with; None keeps their scores.
        allowed: (N,) bool on the device: documents that may be chosen; None for all.
        depth: how many to choose; documents that tie with the last one are chosen as well.
        also: numbers of documents to score in any case, of each query.
        record_after: after so many searches of one query like this one, record it as a CUDA graph; None never does.

    Returns:
        The documents chosen for each query.

    Raises:
        torch.OutOfMemoryError: the device's memory is full.
    """
    nothing = np.zeros(0, np.int64)
    if not collection.count:
        return [Chosen(nothing, np.zeros(0, np.float32), 0) for _ in gathering.rows]
    extra = [nothing] * len(gathering.rows) if also is None else list(also)
    with collection.device.active():
        alone = record_after is not None and len(gathering.rows) == 1
        again = _again(collection, gathering, refining, allowed, depth, extra, record_after or 0) if alone else None
        chosen = again or _searched(collection, gathering, refining, allowed, depth, extra)
        # Where more documents tie with the last one than there was room for, choose again with more room.
        room = depth
        while tied := [n for n, found in enumerate(chosen) if found is None]:
            room *= 8
            few, whole = gathering.some(tied), None if refining is None else refining.some(tied)
            some = _searched(collection, few, whole, allowed, depth, [extra[n] for n in tied], room)
            for n, found in zip(tied, some, strict=True):
                chosen[n] = found
        return [found for found in chosen if found is not None]


def _again(
    collection: Collection,
    gathering: Asked,
    refining: Asked | None,
    allowed: torch.Tensor | None,
    depth: int,
    also: Sequence[NDArray[np.int64]],
    after: int,
) -> list[Chosen | None] | None:
    """As `_searched` for one query, by a recorded search; None where there is none."""
    longest = max(len(asked.rows[0]) for asked in (gathering, refining) if asked is not None)
    if not collection.device.records or longest > LONGEST or not _recordable(collection):
        return None
    shape, queries = sent(gathering, refining, also, rounded=True)
    work, key = partial(_found, collection, shape, depth=depth), (shape, allowed is not None, depth)
    recorder = collection.resident.recorder
    found = recorder.run(collection.recordings, key, queries, allowed, work, after)
    return None if found is None else [_unpacked(row, shape.also) for row in found.numpy()]


def _recordable(collection: Collection) -> bool:
    """Whether a search only launches kernels: all documents are on the device, and none is scored by torch."""
    queries = torch.empty(0)
    here = (block.documents for _, block in collection.blocks)
    return all(one is not None and backends.never_waits(queries, one.rows) for one in here)


def _searched(
    collection: Collection,
    gathering: Asked,
    refining: Asked | None,
    allowed: torch.Tensor | None,
    depth: int,
    also: Sequence[NDArray[np.int64]],
    room: int = 0,
) -> list[Chosen | None]:
    """As `search`; None for a query where more documents tie than there is room for."""
    shape, queries = sent(gathering, refining, also, rounded=False)
    found = _found(collection, shape, collection.device.send(queries), allowed, depth=depth, room=room)
    return [_unpacked(row, shape.also) for row in found.cpu().numpy()]


def _found(
    collection: Collection,
    shape: Shape,
    queries: torch.Tensor,
    allowed: torch.Tensor | None,
    *,
    depth: int,
    room: int = 0,
) -> torch.Tensor:
    """What one copy brings back: (Nq, 2 C + 1) int32, see `_unpacked`. Nothing waits for the device."""
    here: Sent = received(shape, queries)
    scan = _Scan(collection, here.gathering, here.refining)
    best, numbers = scan.best(allowed, min(max(depth, room) + 1, collection.count))
    last = best[:, min(depth, best.shape[1]) - 1 :][:, :1]
    numbers = torch.where((best >= last) & (best > -torch.inf), numbers, -1)
    full = best.shape[1] < collection.count
    tied = (best[:, -1:] == last) & (last > -torch.inf) & full
    if here.also is not None:
        numbers = torch.cat([numbers, here.also], 1)
    if here.refining is not None or here.also is not None:
        best = scan.of(numbers)
    return torch.cat([numbers.int(), best.view(torch.int32), tied.int()], 1)


def _unpacked(row: NDArray[np.int32], also: int) -> Chosen | None:
    """What one row of the copy says: C numbers, C scores as bits, and whether the room was too small.

    The last `also` numbers came from elsewhere.
    """
    if row[-1]:
        return None
    numbers, scores = np.split(row[:-1], 2)
    least = numbers[: len(numbers) - also] >= 0
    found, at = np.unique(numbers, return_index=True)
    here = slice(1 if len(found) and found[0] < 0 else 0, None)
    return Chosen(found[here].astype(np.int64), scores.view(np.float32)[at[here]], int(least.sum()))


class _Scan:
    """Queries on their way through the blocks of a collection.

    Args:
        collection: the documents.
        gathering: scored with all documents.
        refining: scored with chosen ones; None for `gathering`.
    """

    def __init__(self, collection: Collection, gathering: Request, refining: Request | None) -> None:
        self._collection, self._gathering, self._refining = collection, gathering, refining or gathering
        self._streamed: dict[int, torch.Tensor] = {}

    def best(self, allowed: torch.Tensor | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The highest scores of each query, highest first, and their documents: (Nq, count) float32 and int64."""
        queries, device = len(self._gathering.queries), self._collection.device.torch
        best = torch.full((queries, 0), -torch.inf, device=device)
        numbers = torch.zeros((queries, 0), dtype=torch.int64, device=device)
        for first, documents, streamed in self._collection.on_device():
            here = slice(first, first + len(documents))
            lengths = documents.lengths
            if allowed is not None:
                lengths = torch.where(allowed[here], lengths, 0)
            some = Packed(documents.rows, documents.starts, lengths)
            # A score that is not a number would pass for the highest.
            scores = _scores(self._gathering, some).nan_to_num(-torch.inf, torch.inf, -torch.inf)
            if streamed:  # its rows are gone when the best are known, so score them all while they are here
                whole = self._refining is not self._gathering
                self._streamed[first] = _scores(self._refining, documents) if whole else scores
            found, at = scores.topk(min(count, len(documents)), 1)
            best, numbers = torch.cat([best, found], 1), torch.cat([numbers, at + first], 1)
            best, order = best.topk(min(count, best.shape[1]), 1)
            numbers = numbers.gather(1, order)
        return best, numbers

    def of(self, numbers: torch.Tensor) -> torch.Tensor:
        """(Nq, C) float32 scores of chosen documents, given as (Nq, C) int64, -1 for none."""
        scores = torch.full(numbers.shape, -torch.inf, device=numbers.device)
        for first, block in self._collection.blocks:
            count = block.last - block.first
            here = (numbers >= first) & (numbers < first + count)
            at = (numbers - first).clamp(0, count - 1)
            if block.documents is None:
                found = self._streamed[first].gather(1, at)
            else:
                starts, lengths = block.documents.starts[at], torch.where(here, block.documents.lengths[at], 0)
                chosen = Packed(block.documents.rows, starts.flatten(), lengths.flatten())
                found = _scores(replace(self._refining, grouped=True), chosen)
            scores = torch.where(here, found, scores)
        return scores


def _scores(request: Request, documents: Packed[Rows]) -> torch.Tensor:
    """(Nq, Nd) float32; (Nq, N) when grouped."""
    asked = replace(request, documents=documents)
    return backends.choose(asked.queries.rows, documents.rows).scores(asked)[0]
