"""Copying the live documents of an index, without running the encoder."""

import uuid
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from fastlane_rag.codecs.base import Codec, HalfCodec
from fastlane_rag.errors import IndexFormatError
from fastlane_rag.storage.records import intact
from fastlane_rag.storage.segment import SegmentWriter
from fastlane_rag.storage.segment_words import lexicon_of, merged_lexicon
from fastlane_rag.storage.tables import Entry, SegmentInfo
from fastlane_rag.storage.transactions import Storage, View
from fastlane_rag.upkeep.rewrite import check_rows, copy_rows
from fastlane_rag.upkeep.vectors import write_vectors

if TYPE_CHECKING:
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["copy_live"]

_CHUNK = 1000


def copy_live(source: Storage, target: Storage, policy: str) -> None:
    """Replace the contents of `target` with the live documents of `source`, in order, in one transaction.

    The copy is one segment. Where `policy` (the codec setting in the catalogue) equals that of `source`, it uses the
    newest codec of `source` and its vector map, and half precision otherwise.
    """
    with source.view() as view, target.turn(), target.changing:
        with target.view() as before:
            old = [info.name for info in before.reader.segments().values()]
        kept = policy == source.meta["codec"]
        codecs = [(source.codec(view.reader, name), tokens) for name, tokens in view.reader.codecs().items()][-1:]
        codecs = codecs if kept else []
        codec = codecs[0][0] if codecs else HalfCodec()
        vector_map = view.reader.vector_map(codec.name)
        info = _copied_rows(view, source, target, codec, vector_map)
        documents = _documents(view)
        with target.change() as change:
            change.reset(
                {**source.meta, "codec": policy, "id": target.meta.get("id") or uuid.uuid4().hex}, source.filter_keys
            )
            for codec, tokens in codecs:
                change.add_codec(codec, tokens)
            if vector_map is not None:
                change.add_map(codec, vector_map)
            segment, row = change.add_segment(info) if info is not None else 0, 0
            while chunk := list(islice(documents, _CHUNK)):
                rows = range(row, row + len(chunk))
                change.put([entry for entry, _ in chunk], segment, rows, [tokens for _, tokens in chunk])
                row += len(chunk)
        target.store.remove(old)


def _copied_rows(
    view: View, source: Storage, target: Storage, codec: Codec, vector_map: "VectorMap | None"
) -> SegmentInfo | None:
    if not view.snapshot.documents:
        return None
    parts = {part.segment: part for part in view.snapshot.parts}
    check_rows(parts.values())
    with SegmentWriter(target.store, codec, source.dim, vector_map) as writer:
        placed = view.reader.placed(list(parts))
        copy_rows(placed, parts, writer)
        write_vectors(placed, parts, writer)
        lexicons = {segment: lexicon_of(view.reader, part) for segment, part in parts.items()}
        return writer.finish(merged_lexicon(lexicons, parts, placed))


def _documents(view: View) -> Iterator[tuple[Entry, int]]:
    """Each live document, oldest first, and how many token rows it has."""
    query = "SELECT id, text, metadata, tokens, checksum FROM documents ORDER BY doc"
    for id_, text, metadata, tokens, checksum in view.reader.connection.execute(query):
        if not intact(id_, text, metadata, checksum):
            raise IndexFormatError(f"{view.reader.where} is damaged: the document {id_!r}")
        yield (id_, text, metadata), tokens
