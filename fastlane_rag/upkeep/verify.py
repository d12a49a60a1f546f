"""Looking at an index directory without a model: is it sound, and what documents are in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fastlane_rag.errors import FastLaneError, IndexFormatError
from fastlane_rag.storage.catalogue import Catalogue
from fastlane_rag.storage.folder import index_path
from fastlane_rag.storage.layout import CATALOGUE, MARKER
from fastlane_rag.storage.lexicon import build_lexicon, count_document, merge_lexicons
from fastlane_rag.storage.marker import read_marker
from fastlane_rag.storage.records import Reader, intact
from fastlane_rag.storage.segment import Segment
from fastlane_rag.storage.tables import PENDING, SegmentInfo
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.types import Document

__all__ = ["export", "problems", "verify"]

# Commits that may overtake `verify` before it has opened all segments of one.
_ATTEMPTS = 20

_Opened = Segment | FileNotFoundError | IndexFormatError
"""A segment, or why it cannot be opened."""


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Read every byte of an index directory and say what is wrong.

    Returns:
        One sentence a problem, each naming the file; empty for a sound index.

    Raises:
        IndexNotFoundError: there is no index at `path`.
    """
    try:
        storage = Storage.open(index_path(path), read_only=True)
    except IndexFormatError as error:
        return [str(error)]
    try:
        return list(problems(storage))
    finally:
        storage.close()


def export(path: str | os.PathLike[str]) -> Iterator[Document]:
    """Yield every document, in the order of insertion, from the catalogue alone.

    Works where segment files are lost or damaged: texts and metadata do not live in them.

    Raises:
        IndexNotFoundError: there is no index at `path`.
        IndexFormatError: the catalogue is damaged.
    """
    catalogue = Catalogue.open(index_path(path) / CATALOGUE, read_only=True)
    try:
        with catalogue.reading() as connection:
            yield from Reader(connection, catalogue.where).documents()
    finally:
        catalogue.close()


def problems(storage: Storage) -> Iterator[str]:
    """What is wrong with an open index, at its latest commit."""
    where = storage.catalogue.where
    try:
        with _opened(storage) as (reader, segments):
            connection = reader.connection
            yield from _marker_problems(storage, reader)
            broken = [row[0] for row in connection.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
            yield from (f"{where} is damaged: {problem}" for problem in broken)
            if not broken:
                yield from _document_problems(reader)
                yield from _field_problems(reader)
                yield from _pending_problems(reader, storage.dim)
                yield from _codec_problems(reader)
                yield from _map_problems(reader)
            for number, segment in segments.items():
                yield from _segment_problems(reader, number, segment)
    except FastLaneError as error:
        yield str(error)
    except (TypeError, ValueError, LookupError) as error:  # a value of another type than was written
        yield f"{where} is damaged: {error!r}"


@contextmanager
def _opened(storage: Storage) -> Iterator[tuple[Reader, dict[int, _Opened]]]:
    """A commit and its segments.

    A later commit may remove a segment before it is opened here: then that commit is the one to look at.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        with storage.catalogue.reading() as connection:
            reader = Reader(connection, storage.catalogue.where)
            infos = reader.segments()
            segments = {number: _segment(storage, reader, info) for number, info in infos.items()}
            gone = {infos[number].name for number, one in segments.items() if isinstance(one, FileNotFoundError)}
            if attempt == _ATTEMPTS or gone <= _named(storage):
                yield reader, segments
                return


def _segment(storage: Storage, reader: Reader, info: SegmentInfo) -> _Opened:
    try:
        return Segment(storage.store, info, reader.codec(info.codec), storage.dim)
    except (FileNotFoundError, IndexFormatError) as error:
        return error


def _named(storage: Storage) -> set[str]:
    """The segments that the newest commit names."""
    with storage.catalogue.reading() as connection:
        return {info.name for info in Reader(connection, storage.catalogue.where).segments().values()}


def _marker_problems(storage: Storage, reader: Reader) -> Iterator[str]:
    if storage.folder is None:
        return
    try:
        marked = read_marker(storage.folder)
    except ValueError as error:
        yield str(error)
        return
    if marked is None:
        where = storage.folder.path / MARKER
        yield f"{where} is missing: lost commits could not be noticed; the next write makes it anew"


def _document_problems(reader: Reader) -> Iterator[str]:
    rows = reader.connection.execute("SELECT doc, id, text, metadata, checksum, segment FROM documents")
    segments = {PENDING, *reader.segments()}
    for doc, id_, text, metadata, checksum, segment in rows:
        if not intact(id_, text, metadata, checksum):
            yield f"{reader.where} is damaged: document {doc} ({id_!r}) is not as it was written"
        elif segment not in segments:
            yield f"{reader.where} is inconsistent: document {id_!r} is in segment {segment}, which does not exist"


def _field_problems(reader: Reader) -> Iterator[str]:
    """The table `fields` must be what the metadata say."""
    true = (
        "SELECT d.doc, e.key, e.type, e.atom FROM documents AS d, json_each(d.metadata) AS e "
        "WHERE e.key IN (SELECT key FROM filter_keys)"
    )
    stored = "SELECT doc, key, type, value FROM fields"
    for one, other in ((true, stored), (stored, true)):
        query = f"SELECT count(*) FROM ({one} EXCEPT {other})"  # noqa: S608
        (wrong,) = reader.connection.execute(query).fetchone()
        if wrong:
            yield f"{reader.where} is inconsistent: {wrong} rows of its table fields do not agree with the metadata"


def _pending_problems(reader: Reader, dim: int) -> Iterator[str]:
    lengths = {n: len(tokens) for n, tokens in reader.pending_tokens(-(2**63), dim)}
    query = "SELECT row, tokens FROM documents WHERE segment = ?"
    named = dict(reader.connection.execute(query, (PENDING,)).fetchall())
    if lengths != named:
        wrong = len(set(lengths.items()) ^ set(named.items()))
        yield f"{reader.where} is inconsistent: {wrong} rows of its tables pending and documents do not agree"


def _codec_problems(reader: Reader) -> Iterator[str]:
    for name, tokens in reader.codecs().items():
        try:
            found = reader.codec(name).name
        except IndexFormatError as error:
            yield str(error)
            continue
        if found != name or tokens < 1:
            yield f"{reader.where} is inconsistent: its codec {name!r} is {found!r}, trained on {tokens} tokens"


def _map_problems(reader: Reader) -> Iterator[str]:
    codecs = reader.codecs()
    for codec in reader.maps():
        try:
            reader.vector_map(codec)
        except IndexFormatError as error:
            yield str(error)
        if codec not in codecs:
            yield f"{reader.where} is inconsistent: it has a vector map of a codec {codec!r} that does not exist"


def _word_problems(reader: Reader, number: int, segment: Segment) -> Iterator[str]:
    """A segment's words must be those of its live documents' texts."""
    if segment.lexicon is None:
        return
    texts = reader.texts(number)
    rows = np.array(list(texts), np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(segment):
        return  # told as another problem
    places = np.full(len(segment), -1, np.int64)
    places[rows] = np.arange(len(rows))
    true = build_lexicon(map(count_document, texts.values())).arrays()
    try:
        stored = merge_lexicons([(segment.lexicon, places)], len(rows)).arrays()
    except (IndexError, ValueError) as error:
        yield f"{segment.where} is inconsistent: its words: {error}"
        return
    if not all(np.array_equal(array, stored[name]) for name, array in true.items()):
        yield f"{segment.where} is inconsistent: its words are not those of the texts in {reader.where}"


def _segment_problems(reader: Reader, number: int, segment: _Opened) -> Iterator[str]:
    if isinstance(segment, FileNotFoundError):
        yield f"the segment {segment.filename}, recorded in {reader.where}, is missing"
        return
    if isinstance(segment, IndexFormatError):
        yield f"{segment} (recorded in {reader.where})"
        return
    found = list(segment.problems())
    yield from found
    if found:
        return
    yield from _word_problems(reader, number, segment)
    if segment.vectors is not None and reader.maps().get(segment.info.codec) != segment.vectors.name:
        yield f"{reader.where} is inconsistent: the vector map of {segment.where} is not in it"
    live = np.array(
        reader.connection.execute("SELECT row, tokens FROM documents WHERE segment = ?", (number,)).fetchall(),
        np.int64,
    ).reshape(-1, 2)
    dead = [row for (row,) in reader.connection.execute("SELECT row FROM dead WHERE segment = ?", (number,))]
    if sorted([*live[:, 0].tolist(), *dead]) != list(range(len(segment))):
        yield f"{reader.where} is inconsistent: the live and dead rows of {segment.where} are not all of its rows"
    elif (np.diff(segment.offsets)[live[:, 0]] != live[:, 1]).any():
        yield f"{reader.where} is inconsistent: the documents of {segment.where} have other lengths"
