"""Writing the live rows of segments into one new segment, while reads and other writes go on."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.storage.segment import Segment, SegmentWriter
from fastlane_rag.storage.segment_words import lexicon_of, merged_lexicon
from fastlane_rag.storage.snapshot import Part
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.upkeep.pace import Pace
from fastlane_rag.upkeep.recode import newest_codec
from fastlane_rag.upkeep.vectors import write_vectors

__all__ = ["check_rows", "copy_rows", "rewrite"]

_Placed = Sequence[tuple[int, int, int]]
"""(doc, segment, row) of documents."""

_AT_ONCE = 64  # documents


def rewrite(storage: Storage, segments: Sequence[int], pace: Pace) -> bool:
    """Write the live rows of these segments (0: the pending rows) into one in the newest codec, oldest document first.

    The file is written without the writer's lock and beside other writes of this object. A short transaction then moves
    the documents that are still where they were; the rows of the others are dead from the start. A draft that is given
    up is deleted, and one whose process died is swept by the next writer.

    Returns:
        Whether it was done: not where a codec was trained meanwhile, or none of the documents is where it was.
    """
    with storage.view() as view:
        parts = {part.segment: part for part in view.snapshot.parts if part.segment in segments}
        placed = view.reader.placed(list(parts))
        codec = newest_codec(storage, view.reader)
        vector_map = view.reader.vector_map(codec.name)
        lexicons = {segment: lexicon_of(view.reader, part) for segment, part in parts.items()}
    if not placed:
        return _drop(storage, parts, pace) if parts else True
    check_rows(parts.values())
    with pace.turn(storage):  # nobody sweeps a draft that is not locked yet
        writer = SegmentWriter(storage.store, codec, storage.dim, vector_map)
    with writer:
        copy_rows(placed, parts, writer, pace)
        write_vectors(placed, parts, writer, pace)
        writer.complete(merged_lexicon(lexicons, parts, placed))
        with pace.turn(storage), storage.changing:
            with storage.view() as view:
                there = set(view.reader.placed(list(parts)))
                if newest_codec(storage, view.reader).name != codec.name or there.isdisjoint(placed):
                    return False
            with storage.change() as change:
                change.move(placed, change.add_segment(writer.publish()))
                change.drop(_numbered(parts))
            storage.store.remove(_names(parts))
    return True


def _drop(storage: Storage, parts: dict[int, Part], pace: Pace) -> bool:
    """Drop segments without live rows."""
    with pace.turn(storage):
        with storage.change() as change:
            change.drop(_numbered(parts))
        storage.store.remove(_names(parts))
    return True


def _numbered(parts: Iterable[int]) -> list[int]:
    return [segment for segment in parts if segment != PENDING]


def _names(parts: dict[int, Part]) -> list[str]:
    return [part.source.info.name for part in parts.values() if isinstance(part.source, Segment)]


def check_rows(parts: Iterable[Part]) -> None:
    """Check the checksums of segments before copying, so that a damaged row never gets a new, valid checksum."""
    for part in parts:
        if isinstance(part.source, Segment):
            part.source.check()
            part.give_back()


def copy_rows(placed: _Placed, parts: dict[int, Part], writer: SegmentWriter, pace: Pace | None = None) -> None:
    """Append the token rows of documents, given as (doc, segment, row), to a segment.

    Rows already in the segment's codec are copied exactly. Other rows are decoded and encoded again.
    """
    waiting: list[NDArray[np.float32]] = []
    lengths: list[int] = []

    def encode() -> None:
        if waiting:
            writer.append_encoded(writer.codec.encode(np.concatenate(waiting)), lengths)
            waiting.clear()
            lengths.clear()

    for segment, first, last in _runs(placed, parts):
        if pace is not None:
            pace()
        source = parts[segment].source
        begin, end = int(source.offsets[first]), int(source.offsets[last])
        counts = np.diff(source.offsets[first : last + 1]).tolist()
        if isinstance(source, Segment) and source.codec.name == writer.codec.name:
            encode()
            writer.append_encoded({name: array[begin:end] for name, array in source.arrays.items()}, counts)
            continue
        waiting.append(source.rows(begin, end).astype(np.float32))
        lengths.extend(counts)
        if len(lengths) >= _AT_ONCE:
            encode()
            parts[segment].give_back()
    encode()


def _runs(placed: _Placed, parts: dict[int, Part]) -> Iterator[tuple[int, int, int]]:
    """Group documents that are adjacent in a segment into runs (segment, first, last), of some documents at most."""
    run: tuple[int, int, int] | None = None
    for _, segment, row in placed:
        position = int(parts[segment].positions(np.array([row]))[0]) if segment == PENDING else row
        if run is not None and (segment, position) == (run[0], run[2]) and run[2] - run[1] < _AT_ONCE:
            run = (segment, run[1], position + 1)
            continue
        if run is not None:
            yield run
        run = (segment, position, position + 1)
    if run is not None:
        yield run
