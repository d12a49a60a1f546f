"""The catalogue: an SQLite database that says which documents exist and where their token rows are.

This module holds its connections and transactions; `schema` holds its tables, `records` the statements on them.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastlane_rag.errors import (
    IndexClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    StorageError,
)
from fastlane_rag.storage.fork import inside_sqlite
from fastlane_rag.storage.schema import check_schema, create_tables, fill_tables, meta_checksum

__all__ = ["Catalogue"]

# A commit of another process holds readers up for milliseconds; half a minute means something is stuck.
_TIMEOUT_SECONDS = 30.0


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
            create_tables(change)
            fill_tables(change, meta, filter_keys)
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
                check_schema(connection, catalogue.where)
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
        if checksum != meta_checksum(values):
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


_abandoned: list[sqlite3.Connection] = []


def _frozen(path: Path) -> bool:
    """Whether nobody can be writing here: a directory without write permission and no write-ahead log."""
    log = path.with_name(path.name + "-wal")
    return not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
