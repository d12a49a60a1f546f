"""Writes: documents with their tokens into the catalogue or a segment, and segments into larger ones.

Few tokens wait in the catalogue, so that thousands of small writes do not become thousands of files; many
become a segment of their own. After a write, `tidy` merges: the number of segments stays logarithmic in
the size of the index, and every token row is copied a logarithmic number of times. Rows are written in half
precision first and in code when they are merged, once there are enough to train a codec on (see `recoding`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.index.codec import Codec, HalfCodec
from fastlane_rag.index.inputs import Entry
from fastlane_rag.index.lexical import lexicon_of, merged_lexicon
from fastlane_rag.index.lexicon import build_lexicon, count_document
from fastlane_rag.index.recoding import choose, to_recode, train
from fastlane_rag.index.rows import PENDING
from fastlane_rag.index.segment import Segment, SegmentInfo, SegmentWriter
from fastlane_rag.index.snapshot import Part, Snapshot
from fastlane_rag.index.storage import Storage

__all__ = ["check_rows", "compact", "copy_rows", "new_segment", "store_documents", "tidy"]

Encode = Callable[[list[str]], Iterator[NDArray[np.floating]]]

# A write up to this size waits in the catalogue ...
SMALL_BYTES = 512 << 10
# ... until this much is waiting there. A search compares every token that waits: the 8,192 of 2 MiB in 128 dimensions
# take it nearly a millisecond.
PENDING_BYTES = 1 << 20
# Segments of one size class are merged when there are this many; a class spans this factor.
FAN = 4
# Larger segments are only merged by `compact`.
LARGEST_BYTES = 4 << 30
_ENCODED_AT_ONCE = 256  # documents


def store_documents(storage: Storage, entries: Sequence[Entry], encode: Encode) -> None:
    """Insert or replace documents in one transaction.

    Args:
        storage: where.
        entries: the documents, each id once.
        encode: gives the (L, dim) token rows of each of some texts; not called for texts that are stored
            under their id already.
    """
    storage.claim()
    with storage.view() as view:
        same = view.reader.unchanged(entries)
    new = [entry for entry in entries if entry[0] not in same]
    lengths, small, segment = _staged(storage, [text for _, text, _ in new], encode)
    # Should the commit fail, a finished segment is nobody's: the next writer sweeps it away.
    with storage.change() as change:
        if segment is not None:
            change.put(new, change.add_segment(segment), range(len(new)), lengths)
        else:
            change.put(new, PENDING, change.add_pending(small), lengths)
        kept = [entry for entry in entries if entry[0] in same]
        # While we encoded, another thread may have replaced or deleted what was to be kept.
        same = change.unchanged(kept)
        late = [entry for entry in kept if entry[0] not in same]
        rows = [tokens.astype("<f2") for tokens in encode([text for _, text, _ in late])]
        change.put(late, PENDING, change.add_pending(rows), [len(tokens) for tokens in rows])
        change.set_metadata((id_, metadata) for id_, _, metadata in kept if id_ in same)


def _staged(
    storage: Storage, texts: list[str], encode: Encode
) -> tuple[list[int], list[NDArray[np.float16]], SegmentInfo | None]:
    """Lengths of the documents, and their rows: few in memory, many in a finished segment that nobody sees yet."""
    lengths: list[int] = []
    small: list[NDArray[np.float16]] = []
    rest = encode(texts)
    size = 0
    for rows in rest:
        lengths.append(len(rows))
        small.append(rows.astype("<f2"))
        size += small[-1].nbytes
        if size > SMALL_BYTES:
            break
    else:
        return lengths, small, None
    with new_segment(storage, HalfCodec()) as writer:
        for rows in chain(small, rest):
            writer.append(rows)
        return writer.lengths, [], writer.finish(build_lexicon(map(count_document, texts)))


@contextmanager
def new_segment(storage: Storage, codec: Codec, dim: int | None = None) -> Iterator[SegmentWriter]:
    """A segment to write and finish; rows of the index's dimension unless another is given.

    Should that fail, nothing of it stays behind.
    """
    writer = SegmentWriter(storage.store, codec, storage.dim if dim is None else dim)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise


def tidy(storage: Storage) -> None:
    """Merge and write in code what the rules say, until they are met."""
    with storage.changing:
        while True:
            with storage.view() as view:
                segments = _untidy(view.snapshot, storage.dim) or to_recode(storage, view.reader, view.snapshot)
            if not segments:
                return
            _merge(storage, segments)


def compact(storage: Storage, *, retrain: bool = False) -> None:
    """Rewrite everything into one segment without dead rows, and give the space back.

    Args:
        storage: where.
        retrain: train a new codec first, on rows that lie everywhere in the index.
    """
    with storage.changing:
        storage.claim()
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
    """The segments to merge next; empty when all is well."""
    classes: dict[int, list[int]] = defaultdict(list)
    for part in snapshot.parts:
        # What the rows take, or would take, in half precision: codecs change no rule.
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
    if placed:
        check_rows(parts.values())
        codec = plan.codec or train(snapshot, plan.bits, plan.newest)
        with new_segment(storage, codec) as writer:
            copy_rows(placed, parts, writer)
            info = writer.finish(merged_lexicon(lexicons, parts, placed))
    old = [part.source.info.name for part in parts.values() if isinstance(part.source, Segment)]
    with storage.change() as change:
        if placed:
            if plan.codec is None:
                change.add_codec(codec, snapshot.tokens)
            change.move([doc for doc, _, _ in placed], change.add_segment(info))
        change.drop(segments)
    storage.store.remove(old)


def check_rows(parts: Iterable[Part]) -> None:
    """A damaged row must not get a fresh, valid checksum."""
    for part in parts:
        if isinstance(part.source, Segment):
            part.source.check()


def copy_rows(placed: Sequence[tuple[int, int, int]], parts: dict[int, Part], writer: SegmentWriter) -> None:
    """Append the token rows of documents, (doc, segment, row) each, to a segment.

    Rows in the segment's own codec are copied, which is exact; others are decoded and encoded again.
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
    """(segment, first, last): stretches of documents that lie side by side."""
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
