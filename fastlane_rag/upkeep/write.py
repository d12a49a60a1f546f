"""Writing documents and their token rows.

A small write goes into the catalogue as pending rows, so that thousands of small writes do not make thousands of files.
A large write becomes a segment. `steps` later merges both.
docs/tuning.md says what is known of the constants.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import HalfCodec
from fastlane_rag.storage.lexicon import build_lexicon, count_document
from fastlane_rag.storage.segment import SegmentWriter
from fastlane_rag.storage.tables import PENDING, Entry, SegmentInfo
from fastlane_rag.storage.transactions import Storage

__all__ = ["store_documents"]

Encode = Callable[[Sequence[Entry]], Iterator[NDArray[np.floating]]]
"""Encodes documents: yields the (L, dim) token rows of each, in order."""

# A write whose rows take more becomes a segment of its own; the rows of a smaller one wait in the catalogue.
SMALL_BYTES = 512 << 10


def store_documents(storage: Storage, entries: Sequence[Entry], encode: Encode, *, always: bool = False) -> int:
    """Insert or replace documents in one transaction. Returns how many token rows were written.

    Args:
        storage: the index to write to.
        entries: the documents; ids must not repeat.
        encode: encodes documents. Those whose text and image are stored under the same id are not encoded again.
        always: encode these as well.
    """
    with storage.turn():
        return _store(storage, entries, encode, always=always)


def _store(storage: Storage, entries: Sequence[Entry], encode: Encode, *, always: bool) -> int:
    with storage.view() as view:
        same = set() if always else view.reader.unchanged(entries)
    new = [entry for entry in entries if entry[0] not in same]
    lengths, small, segment = _staged(storage, new, encode)
    # If the commit fails, no catalogue names the finished segment, and the next writer deletes it.
    with storage.change() as change:
        if segment is not None:
            change.put(new, change.add_segment(segment), range(len(new)), lengths)
        else:
            change.put(new, PENDING, change.add_pending(small), lengths)
        kept = [entry for entry in entries if entry[0] in same]
        # During encoding, another thread may have replaced or deleted documents whose text was unchanged.
        same = change.unchanged(kept)
        late = [entry for entry in kept if entry[0] not in same]
        rows = [tokens.astype("<f2") for tokens in encode(late)]
        change.put(late, PENDING, change.add_pending(rows), [len(tokens) for tokens in rows])
        change.set_metadata((id_, metadata) for id_, _, metadata in kept if id_ in same)
    return sum(lengths) + sum(map(len, rows))


def _staged(
    storage: Storage, entries: Sequence[Entry], encode: Encode
) -> tuple[list[int], list[NDArray[np.float16]], SegmentInfo | None]:
    """Encode documents: their lengths; their rows in memory (small), or in a finished, uncommitted segment (large)."""
    lengths: list[int] = []
    small: list[NDArray[np.float16]] = []
    rest = encode(entries)
    size = 0
    for rows in rest:
        lengths.append(len(rows))
        small.append(rows.astype("<f2"))
        size += small[-1].nbytes
        if size > SMALL_BYTES:
            break
    else:
        return lengths, small, None
    with SegmentWriter(storage.store, HalfCodec(), storage.dim) as writer:
        for rows in chain(small, rest):
            writer.append(rows)
        return writer.lengths, [], writer.finish(build_lexicon(count_document(text) for _, text, _ in entries))
