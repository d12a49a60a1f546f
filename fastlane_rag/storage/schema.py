"""The tables of the catalogue, and how to tell a catalogue from other databases."""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import cache

from fastlane_rag.errors import IndexFormatError, IndexNotFoundError
from fastlane_rag.storage.fork import inside_sqlite

__all__ = ["VERSION", "check_schema", "create_tables", "fill_tables", "has_maps", "meta_checksum", "upgrade"]

APPLICATION_ID = 0x464C5247  # "FLRG"
VERSION = 3
_BEFORE_MAPS = 2  # read as it is, and upgraded by the first write that stores a vector map

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    segment INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    documents INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    header TEXT NOT NULL,
    codec TEXT NOT NULL);
CREATE TABLE codecs (
    codec INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    tokens INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    parameters BLOB NOT NULL);
CREATE TABLE documents (
    doc INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    segment INTEGER NOT NULL,
    row INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL);
CREATE UNIQUE INDEX documents_place ON documents (segment, row);
CREATE INDEX documents_doc ON documents (doc, segment, row);
CREATE TABLE dead (
    n INTEGER PRIMARY KEY AUTOINCREMENT, segment INTEGER NOT NULL, row INTEGER NOT NULL);
CREATE TABLE pending (n INTEGER PRIMARY KEY AUTOINCREMENT, checksum INTEGER NOT NULL, tokens BLOB NOT NULL);
CREATE TABLE filter_keys (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE fields (doc INTEGER NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL, value);
CREATE INDEX fields_value ON fields (key, value, type, doc);
CREATE INDEX fields_doc ON fields (doc);
CREATE TRIGGER fields_insert AFTER INSERT ON documents WHEN EXISTS (SELECT 1 FROM filter_keys) BEGIN
    INSERT INTO fields SELECT new.doc, e.key, e.type, e.atom FROM json_each(new.metadata) AS e
    WHERE e.key IN (SELECT key FROM filter_keys);
END;
CREATE TRIGGER fields_update AFTER UPDATE OF metadata ON documents
WHEN EXISTS (SELECT 1 FROM filter_keys) BEGIN
    DELETE FROM fields WHERE doc = old.doc;
    INSERT INTO fields SELECT new.doc, e.key, e.type, e.atom FROM json_each(new.metadata) AS e
    WHERE e.key IN (SELECT key FROM filter_keys);
END;
CREATE TRIGGER fields_delete AFTER DELETE ON documents WHEN EXISTS (SELECT 1 FROM filter_keys) BEGIN
    DELETE FROM fields WHERE doc = old.doc;
END;
"""


_MAPS = """
CREATE TABLE maps (
    codec TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    parameters BLOB NOT NULL);
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty database, within the open transaction."""
    for statement in _statements(_MAPS + _SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("INSERT INTO meta VALUES ('commits', 0)")


def has_maps(connection: sqlite3.Connection) -> bool:
    """Whether the catalogue has the table `maps`, as version 3 added it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version > _BEFORE_MAPS)


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring a catalogue of version 2 to this version, within the open transaction."""
    if not has_maps(connection):
        connection.execute(_MAPS)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def fill_tables(connection: sqlite3.Connection, meta: Mapping[str, str | int], filter_keys: Iterable[str]) -> None:
    """Write the properties of a new index into empty tables."""
    values = {key: str(value) for key, value in meta.items()}
    rows = [*values.items(), ("checksum", meta_checksum(values))]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    connection.executemany("INSERT INTO filter_keys VALUES (?)", [(key,) for key in filter_keys])


def meta_checksum(values: Mapping[str, str]) -> int:
    """CRC-32 of the table `meta` without `commits` and `checksum`."""
    return zlib.crc32("\n".join(f"{key}={values[key]}" for key in sorted(values)).encode())


def check_schema(connection: sqlite3.Connection, where: str) -> None:
    """Check that a database is a catalogue of a version that is read here.

    Raises:
        IndexNotFoundError: it is empty, because its creation was interrupted.
        IndexFormatError: it is damaged, has another format version, or is no catalogue.
    """
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if kind == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise IndexNotFoundError(f"{where} is empty: creating the index was interrupted; create it again")
    if kind != APPLICATION_ID:
        raise IndexFormatError(f"{where} is an SQLite database, but not a FastLane catalogue")
    if version not in (_BEFORE_MAPS, VERSION):
        raise IndexFormatError(
            f"{where} has format version {version}, this version of fastlane-rag reads {VERSION}; "
            + ("upgrade fastlane-rag" if version > VERSION else "index the documents again")
        )
    if _schema(connection) != _our_schema(version):
        raise IndexFormatError(f"{where} is damaged: its tables are not the ones that were made")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


@cache
def _our_schema(version: int) -> list[tuple[str, str]]:
    with inside_sqlite(), closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA if version == _BEFORE_MAPS else _SCHEMA + _MAPS)
        return _schema(connection)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements, because `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
