"""The catalogue: an SQLite database that says which documents exist and where their token rows are.

This module holds its schema, its connections and its transactions; `rows` holds the statements.
"""

import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from fastlane_rag.errors import (
    IndexClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    StorageError,
)
from fastlane_rag.index.fork import inside_sqlite

__all__ = ["Catalogue"]

APPLICATION_ID = 0x464C5247  # "FLRG"
VERSION = 2
# A commit of another process holds readers up for milliseconds; half a minute means something is stuck.
_TIMEOUT_SECONDS = 30.0

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


class Catalogue:
    """Connections to one catalogue, for any number of threads.

    On disk every reader has a connection of its own and a snapshot of its own (SQLite's WAL mode). In
    memory all share one connection, one thread at a time.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        self.where = "the in-memory catalogue" if path is None else str(path)
        self.read_only = read_only
        self.closed = False
        self._lock = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._all: list[sqlite3.Connection] = []

    @classmethod
    def create(cls, path: Path | None, meta: Mapping[str, str | int], filter_keys: Iterable[str]) -> "Catalogue":
        """Make an empty catalogue; on disk, where there is none or an unfinished one."""
        catalogue = cls(path)
        with catalogue._translated(), inside_sqlite():
            connection = catalogue._connect("rwc")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL" if path else "PRAGMA journal_mode = MEMORY")
            catalogue._idle.append(connection)
        with catalogue.writing() as change:
            for statement in _statements(_SCHEMA):
                change.execute(statement)
            change.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            change.execute(f"PRAGMA user_version = {VERSION}")
            change.execute("INSERT INTO meta VALUES ('commits', 0)")
            fill(change, meta, filter_keys)
        return catalogue

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "Catalogue":
        """Open a catalogue.

        Raises:
            IndexNotFoundError: there is none, or its creation was interrupted.
            IndexFormatError: it is damaged, not ours, or newer.
        """
        if not path.is_file():
            raise IndexNotFoundError(f"{path.parent} holds no FastLane index (there is no {path.name} in it)")
        catalogue = cls(path, read_only=read_only)
        try:
            with catalogue.reading() as connection:
                catalogue._check_kind(connection)
        except BaseException:
            catalogue.close()
            raise
        return catalogue

    def meta(self) -> dict[str, str]:
        """What was fixed when the index was created.

        Raises:
            IndexFormatError: it is not what was written.
        """
        with self.reading() as connection:
            rows = dict(connection.execute("SELECT key, value FROM meta WHERE key <> 'commits'"))
        checksum = rows.pop("checksum", None)
        values = {str(key): str(value) for key, value in rows.items()}
        if checksum != _meta_checksum(values):
            raise IndexFormatError(f"{self.where} is damaged: its table meta is not the one that was written")
        return values

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a read transaction: everything seen through it is of one commit."""
        with self._translated(), inside_sqlite(), self._borrowed() as connection:
            # In memory, a thread that reads while it reads already (in a filter, say) has the same connection.
            nested = connection.in_transaction
            if not nested:
                connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction and not nested:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction, committed at the end and rolled back on any exception."""
        with self._translated(), inside_sqlite(), self._borrowed() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'commits'")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def shrink(self) -> None:
        """Give free pages back to the file system, as far as readers allow."""
        with self._translated(), inside_sqlite(), self._borrowed() as connection:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
        self.empty_log()

    def empty_log(self) -> None:
        """Move the write-ahead log into the database, unless a reader is in mid-search: then a later commit does."""
        with self._translated(), inside_sqlite(), self._borrowed() as connection:
            connection.execute("PRAGMA busy_timeout = 100")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(f"PRAGMA busy_timeout = {int(_TIMEOUT_SECONDS * 1000)}")

    def close(self) -> None:
        """Close the connections; one that another thread is using closes when that thread is done."""
        with inside_sqlite(), self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for connection in idle:
                self._discard(connection)

    def abandon(self) -> None:
        """In a forked child: forget the parent's connections without touching their files."""
        self._lock = threading.RLock()
        if self.path is not None:
            # SQLite connections must be neither used nor closed on the far side of a fork.
            _abandoned.extend(self._all)
            self._idle, self._all = [], []

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        if self.path is None:
            with self._lock:
                self._check_open()
                yield self._idle[0]
            return
        with self._lock:
            self._check_open()
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connect("ro" if self.read_only else "rw")
        try:
            yield connection
        finally:
            with self._lock:
                if self.closed:
                    self._discard(connection)
                else:
                    self._idle.append(connection)

    def _connect(self, mode: str) -> sqlite3.Connection:
        target = ":memory:" if self.path is None else f"{self.path.absolute().as_uri()}?mode={mode}"
        if mode == "ro" and self.path is not None and _frozen(self.path):
            target += "&immutable=1"
        connection = sqlite3.connect(
            target, uri=True, timeout=_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        # FULL: a commit is on the disk when it returns (fullfsync: on macOS too). trusted_schema: a foreign
        # file may not run functions.
        try:
            for setting in ("synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF", "cell_size_check = ON"):
                connection.execute(f"PRAGMA {setting}")
        except UnicodeDecodeError as error:  # raised over the message about a damaged schema
            connection.close()
            raise IndexFormatError(f"{self.where} is damaged: {error.object!r}") from error
        except sqlite3.DatabaseError as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
            raise
        self._all.append(connection)
        return connection

    def _discard(self, connection: sqlite3.Connection) -> None:
        self._all.remove(connection)
        connection.close()

    def _check_open(self) -> None:
        if self.closed:
            raise IndexClosedError("the index is closed")

    def _check_kind(self, connection: sqlite3.Connection) -> None:
        (kind,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if kind == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise IndexNotFoundError(f"{self.where} is empty: creating the index was interrupted; create it again")
        if kind != APPLICATION_ID:
            raise IndexFormatError(f"{self.where} is an SQLite database, but not a FastLane catalogue")
        if version != VERSION:
            raise IndexFormatError(
                f"{self.where} has format version {version}, this version of fastlane-rag reads {VERSION}; "
                + ("upgrade fastlane-rag" if version > VERSION else "index the documents again")
            )
        if _schema(connection) != _our_schema():
            raise IndexFormatError(f"{self.where} is damaged: its tables are not the ones that were made")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            # Complaints about single values carry no code of their own.
            value = "Could not decode" in str(error) or "malformed JSON" in str(error)
            if value or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise StorageError(f"cannot use {self.where}: {error}; nothing of this write is stored") from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise IndexReadOnlyError(
                    f"cannot use {self.where}: {error}. A directory that cannot be written needs "
                    "open(..., read_only=True), and an index that was closed properly"
                ) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise IndexLockedError(f"{self.where} stayed locked for {_TIMEOUT_SECONDS:.0f} s") from error
            raise


def fill(connection: sqlite3.Connection, meta: Mapping[str, str | int], filter_keys: Iterable[str]) -> None:
    """Write what an index is created with into empty tables."""
    values = {key: str(value) for key, value in meta.items()}
    rows = [*values.items(), ("checksum", _meta_checksum(values))]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    connection.executemany("INSERT INTO filter_keys VALUES (?)", [(key,) for key in filter_keys])


_abandoned: list[sqlite3.Connection] = []


def _meta_checksum(values: Mapping[str, str]) -> int:
    return zlib.crc32("\n".join(f"{key}={values[key]}" for key in sorted(values)).encode())


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


@cache
def _our_schema() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema(connection)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _frozen(path: Path) -> bool:
    """Whether nobody can be writing here: a directory without write permission and no write-ahead log."""
    log = path.with_name(path.name + "-wal")
    return not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
