"""Merging segments, and recoding rows from half precision into code.

`tidy` runs after each write. It keeps the number of segments logarithmic in the size of the index and copies each token
row a logarithmic number of times. New rows are in half precision. Merging encodes them once there are enough to train a
codec (see `recode`).
docs/tuning.md says what is known of the constants.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec
from fastlane_rag.storage.segment import Segment, SegmentWriter
from fastlane_rag.storage.segment_words import lexicon_of, merged_lexicon
from fastlane_rag.storage.snapshot import Part, Snapshot
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.upkeep.recode import choose, to_recode, train
from fastlane_rag.upkeep.vectors import fit_map, write_vectors

__all__ = ["check_rows", "compact", "copy_rows", "tidy"]

# Rows in the catalogue become a segment when they take more than this; a search compares every token that waits.
PENDING_BYTES = 1 << 20
# Segments of one size class that are merged into one; a class spans this factor.
FAN = 4
# Larger segments are merged by `compact` alone.
LARGEST_BYTES = 4 << 30
_ENCODED_AT_ONCE = 256  # documents


def tidy(storage: Storage) -> None:
    """Merge and recode segments until no rule asks for more."""
    with storage.turn(), storage.changing:
        while True:
            with storage.view() as view:
                segments = _untidy(view.snapshot, storage.dim) or to_recode(storage, view.reader, view.snapshot)
            if not segments:
                return
            _merge(storage, segments)


def compact(storage: Storage, *, retrain: bool = False) -> None:
    """Rewrite everything into one segment without dead rows, and give the space back.

    Args:
        storage: the index to compact.
        retrain: first train a new codec on a sample of all live rows.
    """
    with storage.turn(), storage.changing:
        with storage.view() as view:
            parts = view.snapshot.parts
            plan = choose(storage, view.reader, view.snapshot, list(parts), retrain=retrain)
            ideal = not parts or (len(parts) == 1 and parts[0].live is None and _written_in(parts[0], plan.codec))
        if not ideal:
            _merge(storage, [part.segment for part in parts], retrain=retrain)
        storage.catalogue.shrink()


def _written_in(part: Part, codec: Codec | None) -> bool:
    source = part.source
    return isinstance(source, Segment) and codec is not None and source.codec.name == codec.name and source.has_words


def _untidy(snapshot: Snapshot, dim: int) -> list[int]:
    """The segments to merge next; empty when there is nothing to merge."""
    classes: dict[int, list[int]] = defaultdict(list)
    for part in snapshot.parts:
        # Size in half precision whatever the codec, so that the rules are the same for all codecs.
        size = int(part.source.offsets[-1]) * dim * 2
        if part.segment == PENDING:
            if size > PENDING_BYTES:
                return [PENDING]
        elif 2 * part.documents < len(part):
            return [part.segment]
        elif size <= LARGEST_BYTES:
            classes[max(0, math.floor(math.log(size / PENDING_BYTES, FAN)))].append(part.segment)
    return next((segments for segments in classes.values() if len(segments) >= FAN), [])


def _merge(storage: Storage, segments: list[int], *, retrain: bool = False) -> None:
    """Write the live rows of these segments (0: the pending rows) into one new segment, oldest document first."""
    with storage.view() as view:
        snapshot = view.snapshot
        parts = {part.segment: part for part in snapshot.parts if part.segment in segments}
        placed = view.reader.placed(segments)
        plan = choose(storage, view.reader, snapshot, list(parts.values()), retrain=retrain)
        lexicons = {segment: lexicon_of(view.reader, part) for segment, part in parts.items()}
        vector_map = None if plan.codec is None else view.reader.vector_map(plan.codec.name)
    if placed:
        check_rows(parts.values())
        codec = plan.codec or train(snapshot, plan.bits, plan.newest, storage.device)
        vector_map = vector_map if plan.codec else fit_map(snapshot)
        with SegmentWriter(storage.store, codec, storage.dim, vector_map) as writer:
            copy_rows(placed, parts, writer)
            write_vectors(placed, parts, writer)
            info = writer.finish(merged_lexicon(lexicons, parts, placed))
    old = [part.source.info.name for part in parts.values() if isinstance(part.source, Segment)]
    with storage.change() as change:
        if placed:
            if plan.codec is None:
                change.add_codec(codec, snapshot.tokens)
                if vector_map is not None:
                    change.add_map(codec, vector_map)
            change.move([doc for doc, _, _ in placed], change.add_segment(info))
        change.drop(segments)
    storage.store.remove(old)


def check_rows(parts: Iterable[Part]) -> None:
    """Check the checksums of segments before copying, so that a damaged row never gets a new, valid checksum."""
    for part in parts:
        if isinstance(part.source, Segment):
            part.source.check()


def copy_rows(placed: Sequence[tuple[int, int, int]], parts: dict[int, Part], writer: SegmentWriter) -> None:
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
        source = parts[segment].source
        if isinstance(source, Segment) and source.codec.name == writer.codec.name:
            encode()
            begin, end = int(source.offsets[first]), int(source.offsets[last])
            arrays = {name: array[begin:end] for name, array in source.arrays.items()}
            writer.append_encoded(arrays, np.diff(source.offsets[first : last + 1]).tolist())
            continue
        for begin, end in pairwise(source.offsets[first : last + 1].tolist()):
            waiting.append(source.rows(begin, end).astype(np.float32))
            lengths.append(end - begin)
            if len(waiting) == _ENCODED_AT_ONCE:
                encode()
    encode()


def _runs(placed: Sequence[tuple[int, int, int]], parts: dict[int, Part]) -> Iterable[tuple[int, int, int]]:
    """Group documents that are adjacent in a segment into runs (segment, first, last)."""
    run: tuple[int, int, int] | None = None
    for _, segment, row in placed:
        position = int(parts[segment].positions(np.array([row]))[0]) if segment == PENDING else row
        if run is not None and (segment, position) == (run[0], run[2]):
            run = (segment, run[1], position + 1)
            continue
        if run is not None:
            yield run
        run = (segment, position, position + 1)
    if run is not None:
        yield run
