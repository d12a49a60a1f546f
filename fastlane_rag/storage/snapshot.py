"""Snapshots: the segments, live-row masks and pending rows of an index at one commit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec, HalfCodec
from fastlane_rag.errors import IndexFormatError
from fastlane_rag.storage.files import Store
from fastlane_rag.storage.lexicon import Counted, Lexicon
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.segment import Segment
from fastlane_rag.storage.tables import PENDING, Place

if TYPE_CHECKING:
    import torch

    from fastlane_rag.scoring.inputs import Rows
    from fastlane_rag.storage.postings import Postings
    from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["Mask", "Part", "PendingRows", "RowSource", "Snapshot", "load_snapshot"]

Mask = NDArray[np.bool_]
_BEFORE_ALL = -(2**63)


class RowSource(Protocol):
    """Token rows of N documents, packed one after another."""

    lexicon: "Lexicon | None"

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) int64: document r owns the token rows offsets[r]:offsets[r + 1]."""
        ...

    def rows(self, first: int, last: int) -> NDArray[np.floating]:
        """Token rows first:last, (T, dim) float16 or float32."""
        ...

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """The token rows at these positions, (T, dim) float16 or float32."""
        ...

    @property
    def packed(self) -> "Rows":
        """All token rows as `scoring` takes them, without a copy."""
        ...


class PendingRows:
    """The token rows of pending documents, read from the catalogue into memory.

    Attributes:
        keys: the documents' keys in the table `pending`, ascending.
        tokens: (L, dim) float16 rows of each document.
        counted: word counts of documents already counted, by key.
        lexicon: the lexicon of these documents; None until a search needs it.
    """

    def __init__(
        self, keys: list[int], tokens: list[NDArray[np.float16]], dim: int, counted: dict[int, Counted]
    ) -> None:
        self.keys = np.array(keys, np.int64)
        self.tokens = tokens
        self.offsets: NDArray[np.int64] = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum([len(rows) for rows in tokens], out=self.offsets[1:])
        self.counted = counted
        self.lexicon: Lexicon | None = None
        self._dim = dim

    @cached_property
    def _packed(self) -> NDArray[np.float16]:
        return np.concatenate([np.zeros((0, self._dim), np.float16), *self.tokens])

    def rows(self, first: int, last: int) -> NDArray[np.floating]:
        """Token rows first:last, float16."""
        return self._packed[first:last]

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """The token rows at these positions, float16."""
        return self._packed[positions]

    @cached_property
    def packed(self) -> "Rows":
        """All token rows, float16."""
        import torch

        return torch.from_numpy(self._packed)


@dataclass(frozen=True)
class Part:
    """One segment, or the pending rows, as a snapshot sees it.

    Attributes:
        segment: its number; 0 for the pending rows.
        source: the token rows.
        live: (N,) bool, true for live documents; None when all are live.
    """

    segment: int
    source: RowSource
    live: Mask | None

    def __len__(self) -> int:
        return len(self.source.offsets) - 1

    @cached_property
    def documents(self) -> int:
        """Live documents."""
        return len(self) if self.live is None else int(self.live.sum())

    @cached_property
    def live_tokens(self) -> int:
        """Token rows of the live documents."""
        lengths = np.diff(self.source.offsets)
        return int(lengths.sum() if self.live is None else lengths[self.live].sum())

    @property
    def codec(self) -> str:
        """Name of the codec of its rows."""
        return self.source.info.codec if isinstance(self.source, Segment) else HalfCodec.name

    @property
    def postings(self) -> "Postings | None":
        """The posting lists; None where the rows are in half precision."""
        return self.source.postings if isinstance(self.source, Segment) else None

    @property
    def vectors(self) -> "DocumentVectors | None":
        """The vectors of the documents; None where there are none."""
        return self.source.vectors if isinstance(self.source, Segment) else None

    def give_back(self) -> None:
        """Drop from memory what was read of a segment in half precision; what is touched again is read again.

        These are the largest, upkeep reads them from end to end, and the pages of a mapped file count as memory of the
        process until it is closed.
        """
        if isinstance(self.source, Segment) and self.source.codec.name == HalfCodec.name:
            self.source.give_back()

    @cached_property
    def offset_tensor(self) -> "torch.Tensor":
        """`source.offsets` as a tensor."""
        import torch

        return torch.from_numpy(self.source.offsets)

    def tokens(self, positions: NDArray[np.int64]) -> int:
        """Total of the token rows of these documents."""
        offsets = self.source.offsets
        return int((offsets[positions + 1] - offsets[positions]).sum())

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Convert row numbers to positions in `source`."""
        if isinstance(self.source, PendingRows):
            return np.searchsorted(self.source.keys, rows)
        return rows

    def row(self, position: int) -> int:
        """The row number of a document in `source`."""
        return int(self.source.keys[position]) if isinstance(self.source, PendingRows) else position


@dataclass(frozen=True)
class Snapshot:
    """An index at one commit. Document numbers run through all parts: `starts[p]` + position in part p.

    Attributes:
        commits: writes so far.
        parts: the segments, oldest first, and the pending rows.
        last_dead: key of the last entry of the table `dead` that this snapshot includes.
    """

    commits: int
    parts: tuple[Part, ...]
    last_dead: int

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(P + 1,) int64: number of the first document of each part, then the count of all documents."""
        return np.cumsum([0, *(len(part) for part in self.parts)])

    @cached_property
    def offsets(self) -> list[NDArray[np.int64]]:
        """Each part's offsets."""
        return [part.source.offsets for part in self.parts]

    @cached_property
    def documents(self) -> int:
        """Live documents."""
        return sum(part.documents for part in self.parts)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) int64: token rows of each document, dead ones included."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(offsets) for offsets in self.offsets)])

    @cached_property
    def tokens(self) -> int:
        """Token rows of the live documents."""
        return sum(part.live_tokens for part in self.parts)

    @cached_property
    def live_numbers(self) -> NDArray[np.int64]:
        """Numbers of the live documents, ascending."""
        return np.arange(self.starts[-1]) if self.live is None else np.flatnonzero(self.live)

    def by_part(self, numbers: NDArray[np.int64]) -> Iterator[tuple[Part, slice, NDArray[np.int64]]]:
        """Split ascending document numbers by part: the part, their slice of `numbers`, their positions in the part."""
        bounds = np.searchsorted(numbers, self.starts)
        for p, part in enumerate(self.parts):
            here = slice(bounds[p], bounds[p + 1])
            yield part, here, numbers[here] - self.starts[p]

    def rows_at(self, places: Iterable[Place]) -> Iterator[NDArray[np.floating]]:
        """The stored rows, decoded, (L, dim) each, of the documents at these places, in this order."""
        parts = {part.segment: part for part in self.parts}
        for segment, row in places:
            part = parts[segment]
            [position] = part.positions(np.array([row]))
            yield part.source.rows(*part.source.offsets[position : position + 2])

    def places(self, numbers: NDArray[np.int64]) -> list[Place]:
        """Segment and row of each of these documents."""
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        located = zip(owners.tolist(), (numbers - self.starts[owners]).tolist(), strict=True)
        return [(self.parts[p].segment, self.parts[p].row(position)) for p, position in located]

    def mask(self, places: NDArray[np.int64]) -> Mask:
        """(N,) bool: true for the documents at these places, (M, 2) segments and rows."""
        mask = np.zeros(self.starts[-1], np.bool_)
        for p, part in enumerate(self.parts):
            rows = places[places[:, 0] == part.segment, 1]
            mask[self.starts[p] + part.positions(rows)] = True
        return mask

    @cached_property
    def live(self) -> Mask | None:
        """(N,) bool: true for live documents; None when all are live."""
        if all(part.live is None for part in self.parts):
            return None
        return np.concatenate([np.ones(len(part), np.bool_) if part.live is None else part.live for part in self.parts])


def load_snapshot(
    reader: Reader, store: Store, codec: Callable[[Reader, str], Codec], dim: int, previous: Snapshot | None
) -> Snapshot:
    """Read a snapshot from the catalogue. Reuse the previous one's segments and pending rows where unchanged.

    Args:
        reader: reads the commit.
        store: holds the segments.
        codec: returns the codec with a given name.
        dim: dimension of the token rows.
        previous: the snapshot of an earlier commit, or None.

    Raises:
        FileNotFoundError: a segment file is missing, because a later commit removed it or because of damage.
        IndexFormatError: a file is damaged.
    """
    before = {part.segment: part for part in previous.parts} if previous else {}
    # A row dies only after its segment was committed, so these entries include every dead row of a new segment.
    last_dead = previous.last_dead if previous else _BEFORE_ALL
    dead = reader.dead_after(last_dead)
    parts = []
    for number, info in reader.segments().items():
        old = before.get(number)
        part = old or Part(number, Segment(store, info, codec(reader, info.codec), dim), None)
        rows = [row for _, segment, row in dead if segment == number]
        parts.append(_without(part, rows, reader.where))
    pending = _load_pending(reader, before.get(PENDING), dim)
    if pending is not None:
        parts.append(pending)
    return Snapshot(reader.commits(), tuple(parts), max([last_dead, *(n for n, _, _ in dead)]))


def _without(part: Part, rows: list[int], where: str) -> Part:
    """A copy of the part with these rows marked dead."""
    if not rows:
        return part
    if min(rows) < 0 or max(rows) >= len(part):
        raise IndexFormatError(f"{where} is damaged: its table dead names rows beyond segment {part.segment}")
    live = np.ones(len(part), np.bool_) if part.live is None else part.live.copy()
    live[rows] = False
    return Part(part.segment, part.source, live)


def _load_pending(reader: Reader, previous: Part | None, dim: int) -> Part | None:
    keys = reader.pending_keys()
    if not keys:
        return None
    known: dict[int, NDArray[np.float16]] = {}
    counted: dict[int, Counted] = {}
    if previous is not None and isinstance(previous.source, PendingRows):
        if keys == previous.source.keys.tolist():
            return previous
        known = dict(zip(previous.source.keys.tolist(), previous.source.tokens, strict=True))
        before = previous.source.counted
        counted = {key: before[key] for key in keys if key in before}
    known |= reader.pending_tokens(max(known, default=_BEFORE_ALL), dim)
    if not known.keys() >= set(keys):
        raise IndexFormatError(f"{reader.where} is damaged: its table pending has rows that were never added")
    return Part(PENDING, PendingRows(keys, [known[key] for key in keys], dim, counted), None)
