"""The statements on the catalogue's tables. Everything a user supplied travels as a parameter."""

# ruff: noqa: S608 -- statements are put together from constants of this module alone

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import iscoroutine
from itertools import chain
from sqlite3 import Connection, OperationalError
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec, HalfCodec
from fastlane_rag.errors import FilterError, IndexFormatError
from fastlane_rag.storage.filters import Compiled, DocumentFilter, Filter, compile_filter
from fastlane_rag.storage.metadata import image_of, metadata_from_json
from fastlane_rag.storage.schema import fill_tables, has_maps, upgrade
from fastlane_rag.storage.tables import PENDING, Entry, Place, SegmentInfo
from fastlane_rag.types import IMAGE_KEY, Document

if TYPE_CHECKING:
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["Condition", "Reader", "Writer", "intact"]

Condition = Compiled | None
"""Selects documents: by a compiled filter, or all of them."""
_DEEP = 60  # brackets of a condition that SQLite's parser may not hold: its stack has 100 places before 3.46
_MOST = 2**63 - 1
_CHUNK = 500  # values a statement: SQLite before 3.32 takes 999
# The metadata of a document that may be an image, and else an empty one, which takes no time to read.
_IMAGE = f"""CASE WHEN instr(metadata, '"{IMAGE_KEY}"') THEN metadata ELSE '' END"""
_T = TypeVar("_T")


class Reader:
    """Reads from the catalogue, within one read transaction.

    Every method raises IndexFormatError where the catalogue is damaged.

    Args:
        connection: is in a transaction.
        where: names the catalogue in messages.
    """

    def __init__(self, connection: Connection, where: str) -> None:
        self.connection = connection
        self.where = where

    def commits(self) -> int:
        """Writes since the index was created; every commit adds one."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = 'commits'").fetchone()
        if row is None or not isinstance(row[0], int):
            raise IndexFormatError(f"{self.where} is damaged: its count of commits")
        return row[0]

    def filter_keys(self) -> list[str]:
        """The metadata keys that the table `fields` indexes."""
        return [key for (key,) in self.connection.execute("SELECT key FROM filter_keys ORDER BY key")]

    def segments(self) -> dict[int, SegmentInfo]:
        """The live segments, oldest first."""
        query = "SELECT segment, name, documents, tokens, bytes, header, codec FROM segments ORDER BY segment"
        rows = self.connection.execute(query).fetchall()
        if any(tuple(map(type, row)) != (int, str, int, int, int, str, str) for row in rows):
            raise IndexFormatError(f"{self.where} is damaged: its table segments")
        return {number: SegmentInfo(*rest) for number, *rest in rows}

    def codecs(self) -> dict[str, int]:
        """The trained codecs, oldest first: name, and how many token rows the index had when it was trained."""
        rows = self.connection.execute("SELECT name, tokens FROM codecs ORDER BY codec").fetchall()
        if any(tuple(map(type, row)) != (str, int) for row in rows):
            raise IndexFormatError(f"{self.where} is damaged: its table codecs")
        return dict(rows)

    def codec(self, name: str) -> Codec:
        """The codec of this name.

        Raises:
            IndexFormatError: there is none, or it is damaged.
        """
        if name == HalfCodec.name:
            return HalfCodec()
        row = self.connection.execute("SELECT checksum, parameters FROM codecs WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise IndexFormatError(f"{self.where} is damaged: it has no codec {name!r}")
        checksum, parameters = row
        if not isinstance(parameters, bytes) or zlib.crc32(parameters) != checksum:
            raise IndexFormatError(f"{self.where} is damaged: its codec {name!r}")
        from fastlane_rag.codecs.residual import ResidualCodec

        return ResidualCodec.from_bytes(parameters)

    def maps(self) -> dict[str, str]:
        """The name of each codec's vector map, by the codec's name."""
        if not has_maps(self.connection):
            return {}
        return dict(self.connection.execute("SELECT codec, name FROM maps ORDER BY codec").fetchall())

    def vector_map(self, codec: str) -> "VectorMap | None":
        """The vector map that was fitted with a codec; None where there is none."""
        if codec not in self.maps():
            return None
        query = "SELECT name, checksum, parameters FROM maps WHERE codec = ?"
        name, checksum, parameters = self.connection.execute(query, (codec,)).fetchone()
        if not isinstance(parameters, bytes) or zlib.crc32(parameters) != checksum:
            raise IndexFormatError(f"{self.where} is damaged: the vector map of its codec {codec!r}")
        from fastlane_rag.vectors.map import VectorMap

        found = VectorMap.from_bytes(parameters)
        if found.name != name:
            raise IndexFormatError(f"{self.where} is inconsistent: its vector map {name!r} is {found.name!r}")
        return found

    def dead_after(self, n: int) -> list[tuple[int, int, int]]:
        """(n, segment, row) of the entries of `dead` after entry n."""
        return self.connection.execute("SELECT n, segment, row FROM dead WHERE n > ?", (n,)).fetchall()

    def pending_keys(self) -> list[int]:
        """The keys of `pending`, ascending."""
        return [n for (n,) in self.connection.execute("SELECT n FROM pending ORDER BY n")]

    def pending_tokens(self, after: int, dim: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """Key and (L, dim) float16 rows of each pending document whose key is greater than `after`."""
        query = "SELECT n, checksum, tokens FROM pending WHERE n > ? ORDER BY n"
        for n, checksum, blob in self.connection.execute(query, (after,)):
            if zlib.crc32(blob) != checksum or not blob or len(blob) % (2 * dim):
                raise IndexFormatError(f"{self.where} is damaged: row {n} of its table pending")
            yield n, np.frombuffer(blob, "<f2").reshape(-1, dim)

    def has(self, id_: str) -> bool:
        """Whether a document has this id."""
        return self.connection.execute("SELECT 1 FROM documents WHERE id = ?", (id_,)).fetchone() is not None

    def ids(self, filter_: Filter | None) -> list[str]:
        """Ids in the order of insertion."""
        return [id_ for (id_,) in self._select("id", self.compiled(filter_), " ORDER BY doc")]

    def find(self, filter_: Filter | None, limit: int | None, offset: int) -> list[Document]:
        """Up to `limit` documents that pass a filter, after the first `offset` of them, in the order of insertion."""
        condition = self.compiled(filter_)
        columns, last = "id, metadata, text, checksum", -1 if limit is None else min(limit, _MOST)
        if condition is None or not condition.tests:
            rows: Iterable[Any] = self._select(
                columns, condition, f" ORDER BY doc LIMIT {last} OFFSET {min(offset, _MOST)}"
            )
        else:
            stop = None if limit is None else offset + limit
            rows = self._select(columns, condition, " ORDER BY doc")[offset:stop]
        return [self._document(*row) for row in rows]

    def compiled(self, filter_: Filter | None) -> Condition:
        """Compile a filter to the form that the other methods take.

        Raises:
            FilterError: the filter is not valid.
        """
        condition = None if filter_ is None else compile_filter(filter_, self.filter_keys())
        if condition is not None and condition.sql.count("(") > _DEEP:
            try:
                self.connection.execute(f"EXPLAIN SELECT 1 FROM documents WHERE {condition.sql}", condition.parameters)
            except OperationalError as error:
                if "overflow" not in str(error) and "depth" not in str(error):
                    raise
                raise FilterError(f"the filter is nested too deep for SQLite: {error}") from error
        return condition

    def places(self, condition: Condition) -> NDArray[np.int64]:
        """(N, 2): segment and row of the documents that meet a condition, in no particular order."""
        # Where indexed keys decide, the index on places serves, and no page with texts is read.
        if condition is None or condition.tests:
            found: Iterable[Any] = self._select("segment, row", condition, "")
        elif condition.docs is not None:
            query = (
                f"SELECT d.segment, d.row FROM ({condition.docs}) AS found CROSS JOIN documents AS d "
                "INDEXED BY documents_doc ON d.doc = found.doc"
            )
            found = self.connection.execute(query, condition.parameters)
        elif "documents.metadata" not in condition.sql:
            query = f"SELECT segment, row FROM documents INDEXED BY documents_doc WHERE {condition.sql}"
            found = self.connection.execute(query, condition.parameters)
        else:
            found = self._select("segment, row", condition, "")
        return np.fromiter(chain.from_iterable(found), np.int64).reshape(-1, 2)

    def ids_at(self, places: Iterable[Place]) -> list[str]:
        """The id of the document at each place."""
        return [id_ for (id_,) in self._at("id", places)]

    def at(self, places: Iterable[Place]) -> list[Document]:
        """The document at each place."""
        return [self._document(*row) for row in self._at("id, metadata, text, checksum", places)]

    def text_at(self, place: Place) -> str:
        """The text of the document at a place."""
        [found] = self._at("row, text", [place])
        return self._text(*found)[1]

    def texts(self, segment: int) -> dict[int, str]:
        """The text of each live row of a segment."""
        query = "SELECT row, text FROM documents WHERE segment = ? ORDER BY row"
        return dict(self._text(row, text) for row, text in self.connection.execute(query, (segment,)))

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids, in this order, without the missing ones."""
        query = "SELECT id, metadata, text, checksum FROM documents WHERE id IN ({})"
        found = {row[0]: self._document(*row) for row in self._for_ids(query, ids)}
        return [found[id_] for id_ in ids if id_ in found]

    def places_of(self, ids: Sequence[str]) -> dict[str, Place]:
        """Where the token rows of these documents are, without the missing ones."""
        query = "SELECT id, segment, row FROM documents WHERE id IN ({})"
        return {id_: (segment, row) for id_, segment, row in self._for_ids(query, ids)}

    def documents(self) -> Iterator[Document]:
        """Every document, in the order of insertion."""
        for row in self.connection.execute("SELECT id, metadata, text, checksum FROM documents ORDER BY doc"):
            yield self._document(*row)

    def unchanged(self, entries: Sequence[Entry]) -> set[str]:
        """The ids of the entries whose text, and image if it is one, is already stored under the same id."""
        given = {id_: (text, image_of(metadata)) for id_, text, metadata in entries}
        rows = self._for_ids(f"SELECT id, text, {_IMAGE} FROM documents WHERE id IN ({{}})", list(given))
        return {id_ for id_, text, metadata in rows if given[id_] == (text, image_of(metadata))}

    def images(self, ids: Sequence[str]) -> dict[str, str | None]:
        """The image that each of these documents is, None for a text; ids that are not stored are left out."""
        rows = self._for_ids(f"SELECT id, {_IMAGE} FROM documents WHERE id IN ({{}})", list(ids))
        return {id_: image_of(metadata) for id_, metadata in rows}

    def placed(self, segments: Sequence[int]) -> list[tuple[int, int, int]]:
        """(doc, segment, row) of the documents in these segments, oldest first."""
        return self.connection.execute(
            f"SELECT doc, segment, row FROM documents WHERE segment IN ({_marks(segments)}) ORDER BY doc",
            segments,
        ).fetchall()

    def tokens(self) -> int:
        """Token rows of the live documents."""
        return int(self.connection.execute("SELECT ifnull(sum(tokens), 0) FROM documents").fetchone()[0])

    def bytes(self) -> int:
        """Size of the catalogue's pages."""
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        return int(pages * self.connection.execute("PRAGMA page_size").fetchone()[0])

    def _select(self, columns: str, condition: Condition, order: str) -> list[Any]:
        if condition is None:
            return self.connection.execute(f"SELECT {columns} FROM documents{order}").fetchall()
        if not condition.tests:
            query = f"SELECT {columns} FROM documents WHERE {condition.sql}{order}"
            return self.connection.execute(query, condition.parameters).fetchall()
        whole = any(isinstance(test, DocumentFilter) for test in condition.tests)
        query = (
            f"SELECT id, {'text' if whole else 'NULL'}, metadata, {columns} FROM documents WHERE {condition.sql}{order}"
        )
        found = []
        for id_, text, metadata, *rest in self.connection.execute(query, condition.parameters):
            document = Document(id_, text, metadata_from_json(metadata))
            if all(_passes(document, test) for test in condition.tests):
                found.append(rest)
        return found

    def _for_ids(self, query: str, ids: Sequence[str]) -> Iterator[Any]:
        for chunk in _chunks(ids):
            yield from self.connection.execute(query.format(_marks(chunk)), chunk)

    def _at(self, columns: str, places: Iterable[Place]) -> Iterator[list[Any]]:
        """These columns of the document at each place."""
        for chunk in _chunks(list(places), _CHUNK // 2):
            values = ",".join(["(?, ?)"] * len(chunk))
            query = (
                f"SELECT d.segment, d.row, {columns} FROM (VALUES {values}) AS p CROSS JOIN documents AS d "
                "ON d.segment = p.column1 AND d.row = p.column2"
            )
            rows = self.connection.execute(query, [*chain.from_iterable(chunk)])
            found = {(segment, row): rest for segment, row, *rest in rows}
            for segment, row in chunk:
                if (segment, row) not in found:
                    raise IndexFormatError(f"{self.where} is damaged: no document for row {row} of segment {segment}")
                yield found[segment, row]

    def _text(self, row: int, text: Any) -> tuple[int, str]:
        if not isinstance(text, str):
            raise IndexFormatError(f"{self.where} is damaged: the text of row {row}")
        return row, text

    def _document(self, id_: str, metadata: str, text: str, checksum: int) -> Document:
        if not intact(id_, text, metadata, checksum):
            raise IndexFormatError(f"{self.where} is damaged: the document {id_!r}")
        return Document(id_, text, metadata_from_json(metadata))


class Writer(Reader):
    """Changes to the catalogue, within one write transaction."""

    def put(self, entries: Sequence[Entry], segment: int, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Insert documents, or replace those with the same id.

        Args:
            entries: the documents.
            segment: holds their token rows.
            rows: the row of each document in that segment.
            tokens: the token rows of each document.
        """
        self.retire([id_ for id_, _, _ in entries])
        self.connection.executemany(
            "INSERT INTO documents (id, segment, row, tokens, checksum, metadata, text) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET segment = excluded.segment, "
            "row = excluded.row, tokens = excluded.tokens, checksum = excluded.checksum, "
            "metadata = excluded.metadata, text = excluded.text",
            (
                (id_, segment, row, length, row_checksum(id_, text, metadata), metadata, text)
                for (id_, text, metadata), row, length in zip(entries, rows, tokens, strict=True)
            ),
        )

    def retire(self, ids: Sequence[str]) -> None:
        """Mark the rows of these documents dead, before the documents are replaced or deleted."""
        for chunk in _chunks(ids):
            marks = _marks(chunk)
            self.connection.execute(
                "INSERT INTO dead (segment, row) SELECT segment, row FROM documents "
                f"WHERE segment <> {PENDING} AND id IN ({marks})",
                chunk,
            )
            self.connection.execute(
                "DELETE FROM pending WHERE n IN (SELECT row FROM documents "
                f"WHERE segment = {PENDING} AND id IN ({marks}))",
                chunk,
            )

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents. Returns how many of them were stored."""
        self.retire(ids)
        return sum(
            self.connection.execute(f"DELETE FROM documents WHERE id IN ({_marks(chunk)})", chunk).rowcount
            for chunk in _chunks(ids)
        )

    def set_metadata(self, metadata: Iterable[tuple[str, str]]) -> int:
        """Replace the metadata of documents, (id, JSON) each. Returns how many of them were stored."""
        changed = 0
        for id_, text in metadata:
            for document in self.get([id_]):
                checksum = row_checksum(id_, document.text, text)
                self.connection.execute(
                    "UPDATE documents SET metadata = ?, checksum = ? WHERE id = ?", (text, checksum, id_)
                )
                changed += 1
        return changed

    def add_pending(self, tokens: Iterable[NDArray[np.float16]]) -> list[int]:
        """Store the (L, dim) token rows of documents in the catalogue. Returns the key of each."""
        keys = []
        for rows in tokens:
            blob = rows.tobytes()
            cursor = self.connection.execute(
                "INSERT INTO pending (checksum, tokens) VALUES (?, ?)", (zlib.crc32(blob), blob)
            )
            keys.append(int(cursor.lastrowid or 0))
        return keys

    def add_segment(self, info: SegmentInfo) -> int:
        """Record a segment. Returns its number."""
        cursor = self.connection.execute(
            "INSERT INTO segments (name, documents, tokens, bytes, header, codec) VALUES (?, ?, ?, ?, ?, ?)",
            (info.name, info.documents, info.tokens, info.bytes, info.header, info.codec),
        )
        return int(cursor.lastrowid or 0)

    def add_codec(self, codec: Codec, tokens: int) -> None:
        """Record a codec as the newest; `tokens` is how many token rows the index had when it was trained."""
        parameters = codec.to_bytes()
        self.connection.execute("DELETE FROM codecs WHERE name = ?", (codec.name,))
        self.connection.execute(
            "INSERT INTO codecs (name, tokens, checksum, parameters) VALUES (?, ?, ?, ?)",
            (codec.name, tokens, zlib.crc32(parameters), parameters),
        )

    def add_map(self, codec: Codec, vector_map: "VectorMap") -> None:
        """Record the vector map that was fitted with a codec."""
        upgrade(self.connection)
        parameters = vector_map.to_bytes()
        self.connection.execute(
            "INSERT OR REPLACE INTO maps (codec, name, checksum, parameters) VALUES (?, ?, ?, ?)",
            (codec.name, vector_map.name, zlib.crc32(parameters), parameters),
        )

    def move(self, placed: Sequence[tuple[int, int, int]], segment: int) -> int:
        """Record that documents are now rows 0, 1, 2, ... of a new segment.

        The rows of documents that were replaced, deleted or moved since are dead from the start.

        Args:
            placed: (doc, segment, row) of the documents, as `placed` gave them in an earlier transaction.
            segment: the new segment.

        Returns:
            How many documents were where they had been.
        """
        now = set(self.placed(sorted({source for _, source, _ in placed})))
        still = [(row, place) for row, place in enumerate(placed) if place in now]
        self.connection.executemany(
            "UPDATE documents SET segment = ?, row = ? WHERE doc = ?",
            ((segment, row, doc) for row, (doc, _, _) in still),
        )
        self.connection.executemany(
            "DELETE FROM pending WHERE n = ?", ((key,) for _, (_, source, key) in still if source == PENDING)
        )
        self.connection.executemany(
            "INSERT INTO dead (segment, row) VALUES (?, ?)",
            ((segment, row) for row, place in enumerate(placed) if place not in now),
        )
        return len(still)

    def drop(self, segments: Sequence[int]) -> None:
        """Delete segments that hold no document any more, and codecs that no segment uses, with their vector maps."""
        for segment in segments:
            self.connection.execute("DELETE FROM segments WHERE segment = ?", (segment,))
            self.connection.execute("DELETE FROM dead WHERE segment = ?", (segment,))
        # Keep the newest codec even when no segment uses it: the next segment will.
        self.connection.execute(
            "DELETE FROM codecs WHERE name NOT IN (SELECT codec FROM segments) "
            "AND codec < (SELECT max(codec) FROM codecs)"
        )
        if has_maps(self.connection):
            self.connection.execute("DELETE FROM maps WHERE codec NOT IN (SELECT name FROM codecs)")

    def reset(self, meta: Mapping[str, str | int], filter_keys: Iterable[str]) -> None:
        """Empty the index and give it these properties. Row keys and commits are not counted from the start again."""
        upgrade(self.connection)
        for table in ("documents", "fields", "pending", "dead", "segments", "codecs", "maps", "filter_keys"):
            self.connection.execute(f"DELETE FROM {table}")
        self.connection.execute("DELETE FROM meta WHERE key <> 'commits'")
        fill_tables(self.connection, meta, filter_keys)


def _passes(document: Document, test: Any) -> bool:
    """Whether a document passes a function of its metadata, or of itself.

    Raises:
        FilterError: the function is asynchronous; what it gives would pass every document.
    """
    found = test.test(document) if isinstance(test, DocumentFilter) else test(document.metadata)
    if iscoroutine(found):
        found.close()
        raise FilterError("a filter's function says yes or no at once; this one is asynchronous: make it a plain def")
    return bool(found)


def intact(id_: Any, text: Any, metadata: Any, checksum: Any) -> bool:
    """Whether a row of `documents` still matches its checksum."""
    # A flipped bit can turn a text into a blob.
    texts = isinstance(id_, str) and isinstance(text, str) and isinstance(metadata, str)
    return texts and row_checksum(id_, text, metadata) == checksum


def row_checksum(id_: str, text: str, metadata: str) -> int:
    """CRC-32 of a document: id, text and metadata JSON in UTF-8, each preceded by its length in bytes."""
    parts = [part.encode() for part in (id_, text, metadata)]
    return zlib.crc32(b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def _chunks(values: Sequence[_T], size: int = _CHUNK) -> Iterator[Sequence[_T]]:
    for first in range(0, len(values), size):
        yield values[first : first + size]


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
