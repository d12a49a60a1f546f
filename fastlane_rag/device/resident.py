"""The token rows of an index on a device: copied once, kept from commit to commit, as far as the memory reaches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.device.memory import Device
from fastlane_rag.device.recording import Recorder, Recordings
from fastlane_rag.scoring import Codebook, Codes
from fastlane_rag.scoring.inputs import Packed, Rows

__all__ = ["Block", "Collection", "Resident", "Source"]

_BLOCK_BYTES = 1 << 30  # of rows that are copied and scored together


class Source(Protocol):
    """Token rows of N documents on the host, such as a segment. The same object always has the same rows."""

    @property
    def packed(self) -> Rows:
        """(T, d) rows."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) int64: document r owns the rows offsets[r]:offsets[r + 1]."""
        ...


@dataclass(eq=False)
class Block:
    """Neighbouring documents of one source.

    Attributes:
        source: where their rows are on the host.
        first: number of the first document in the source.
        last: number behind the last one.
        documents: on the device; None where they are streamed.
    """

    source: Source
    first: int
    last: int
    documents: Packed[Rows] | None = None

    @property
    def bytes(self) -> int:
        """What the documents take on the device."""
        rows = int(self.source.offsets[self.last] - self.source.offsets[self.first])
        return rows * _row_bytes(self.source.packed) + 16 * (self.last - self.first)


@dataclass(frozen=True)
class Collection:
    """The documents of one commit, numbered through all sources.

    Attributes:
        resident: what keeps them on the device.
        blocks: with the number of each block's first document.
        count: documents.
        recordings: of searches over them. They end with the commit, because the next one has other documents.
    """

    resident: Resident
    blocks: list[tuple[int, Block]]
    count: int
    recordings: Recordings = field(default_factory=Recordings, compare=False, repr=False)

    @property
    def device(self) -> Device:
        """Where the documents are, or are streamed to."""
        return self.resident.device

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device."""
        return sum(block.bytes for _, block in self.blocks if block.documents is not None)

    @property
    def streamed_bytes(self) -> int:
        """Bytes that stay on the host and are copied for each batch of queries."""
        return sum(block.bytes for _, block in self.blocks if block.documents is None)

    def on_device(self) -> Iterator[tuple[int, Packed[Rows], bool]]:
        """Every block's documents on the device, with the number of the first one and whether they are streamed."""
        for first, block in self.blocks:
            if block.documents is None:
                yield first, self.resident.copied(block), True
            else:
                yield first, block.documents, False


class Resident:
    """Keeps the rows of an index on a device. Safe to use from many threads.

    Args:
        device: the device.
        budget: bytes that the rows may take there.

    Attributes:
        newest: the documents that were asked for last; None before.
        reserved: bytes of the budget that something else takes.
        recorder: records searches.
    """

    def __init__(self, device: Device, budget: int) -> None:
        self.device, self.budget, self.reserved = device, budget, 0
        self.recorder = Recorder(device)
        self._lock = threading.Lock()
        self._alive: WeakValueDictionary[tuple[int, int], Block] = WeakValueDictionary()
        self.newest: Collection | None = None
        self._books: WeakKeyDictionary[Codebook, Codebook] = WeakKeyDictionary()

    def hold(self, sources: Sequence[Source]) -> Collection:
        """The documents of these sources, one source after the other. Rows that are there already are not copied again.

        Rows of other sources leave the device once no collection has them. What does not fit the budget, or the
        memory, stays on the host.
        """
        with self._lock, self.device.active():
            wanted = [block for source in sources for block in _blocks(source)]
            found = [self._alive.get((id(block.source), block.first)) or block for block in wanted]
            self.newest = self._collection(found)  # and lets go of the rest, before more is copied
            taken = self.reserved + sum(block.bytes for block in self._alive.values() if block.documents is not None)
            for block in found:
                if block.documents is None and taken + block.bytes <= self.budget:
                    try:
                        block.documents = self.copied(block)
                    except torch.OutOfMemoryError:
                        break
                    taken += block.bytes
            for block in found:
                self._alive[id(block.source), block.first] = block
            return self.newest

    def _collection(self, blocks: list[Block]) -> Collection:
        firsts = np.cumsum([0, *(block.last - block.first for block in blocks)]).tolist()
        return Collection(self, list(zip(firsts, blocks, strict=False)), firsts[-1])

    def copied(self, block: Block) -> Packed[Rows]:
        """The documents of a block, copied to the device.

        Raises:
            torch.OutOfMemoryError: they do not fit.
        """
        put, rows = self.device.put, block.source.packed
        offsets = torch.from_numpy(np.asarray(block.source.offsets[block.first : block.last + 1]))
        here = slice(int(offsets[0]), int(offsets[-1]))
        ready: Rows
        if isinstance(rows, Codes):
            columns = (put(column[here]) for column in (rows.centroid_ids, rows.scales, rows.residuals))
            ready = Codes(self._book(rows.codebook), *columns)
        else:
            ready = put(rows[here])
        starts = offsets[:-1] - offsets[0]
        return Packed(ready, put(starts), put(offsets.diff()))

    def _book(self, book: Codebook) -> Codebook:
        """The codebook on the device: one for all blocks, so that queries are prepared for it once."""
        found = self._books.get(book)
        if found is None:
            put = self.device.put
            found = self._books.setdefault(book, Codebook(put(book.centroids), put(book.steps), book.bits))
        return found


def _blocks(source: Source) -> Iterator[Block]:
    """Cut the documents of a source into blocks."""
    offsets, step = source.offsets, max(1, _BLOCK_BYTES // _row_bytes(source.packed))
    first, count = 0, len(offsets) - 1
    while first < count:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + step, side="right")) - 1)
        yield Block(source, first, last)
        first = last


def _row_bytes(rows: Rows) -> int:
    """Bytes of a token row."""
    if isinstance(rows, Codes):
        return rows.codebook.width + 3
    return rows.shape[1] * rows.element_size()
