"""The catalogue: an SQLite database that says which documents exist and where their token rows are.

This module holds its connections and transactions; `schema` holds its tables, `records` the statements on them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastlane_rag.errors import (
    IndexClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    IndexReplacedError,
    StorageError,
)
from fastlane_rag.storage.folder import check_regular
from fastlane_rag.storage.fork import breathe, guarding, inside_sqlite
from fastlane_rag.storage.refusals import refusals
from fastlane_rag.storage.schema import check_schema, create_tables, fill_tables, meta_checksum
from fastlane_rag.storage.turns import Turns

__all__ = ["Catalogue"]

# Instructions of SQLite's virtual machine, some milliseconds, after which Python may handle a signal.
_BREATH = 200_000
# FULL: a commit is on the disk when it returns (fullfsync: on macOS too). trusted_schema: a foreign file may not run
# functions. temp_store: the system's temporary folder may be full or missing.
_SETTINGS = (
    "synchronous = FULL",
    "fullfsync = ON",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "temp_store = MEMORY",
)
# What `sqlite3.threadsafety` says where threads may share a connection.
_SERIALIZED = 3
# A commit of another process holds readers up for milliseconds; half a minute means something is stuck.
_TIMEOUT_SECONDS = 30.0


class _Cursor(sqlite3.Cursor):
    """A cursor whose every call passes the gate of forks; between two, a fork need not wait for it."""

    execute = guarding(sqlite3.Cursor.execute)
    executemany = guarding(sqlite3.Cursor.executemany)
    fetchone = guarding(sqlite3.Cursor.fetchone)
    fetchall = guarding(sqlite3.Cursor.fetchall)
    close = guarding(sqlite3.Cursor.close)
    __next__ = guarding(sqlite3.Cursor.__next__)  # type: ignore[arg-type]


class _Connection(sqlite3.Connection):
    """A connection that allows weak references.

    Attributes:
        frozen: the signature of a database that was opened as immutable; None for one that is not.
        log: device and inode of the write-ahead log that it has open; None where that is not known yet.
        cursors: what somebody may still read from.
    """

    frozen: tuple[int, ...] | None = None
    log: tuple[int, int] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursors: weakref.WeakSet[_Cursor] = weakref.WeakSet()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """As the base class does, which would make a cursor of its own kind."""
        return self._noted().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        """As `execute`."""
        return self._noted().executemany(*arguments)

    def _noted(self) -> _Cursor:
        cursor = self.cursor(_Cursor)
        self.cursors.add(cursor)
        return cursor


class Catalogue:
    """Connections to one catalogue, for any number of threads.

    On disk every reader has a connection of its own and a snapshot of its own (SQLite's WAL mode). In
    memory all share one connection: many read at once, and one writes alone.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        self.where = "the in-memory catalogue" if path is None else str(path)
        self.read_only = read_only
        self.closed = False
        self._lock = threading.RLock()
        self._idle: list[_Connection] = []
        # Weak references: a connection that an interrupt kept out of the pool is closed, and its snapshot freed.
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._place: tuple[int, int] | None = None
        self._turns = Turns()  # at the one connection in memory
        self._writer: int | None = None  # the thread that is in a write transaction

    @classmethod
    def create(cls, path: Path | None, meta: Mapping[str, str | int], filter_keys: Iterable[str]) -> Catalogue:
        """Create an empty catalogue. On disk, the file must be missing or unfinished."""
        catalogue = cls(path)
        if path is not None:
            # SQLite would make it without the group's right to write; its other files get the rights of this one.
            with refusals(f"cannot create {path}"):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666))
        with catalogue._translated():
            connection = catalogue._connect("rwc")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL" if path else "PRAGMA journal_mode = MEMORY")
            catalogue._idle.append(connection)
        with catalogue.writing() as change:
            create_tables(change)
            fill_tables(change, meta, filter_keys)
        return catalogue

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Catalogue:
        """Open a catalogue.

        Raises:
            IndexNotFoundError: there is no catalogue, or its creation was interrupted.
            IndexFormatError: it is damaged, no FastLane catalogue, or of another format version.
        """
        with refusals(f"cannot open {path}"):
            found = path.is_file()
        if not found:
            raise IndexNotFoundError(f"{path.parent} holds no FastLane index (there is no {path.name} in it)")
        catalogue = cls(path, read_only=read_only)
        try:
            with catalogue.reading() as connection:
                check_schema(connection, catalogue.where)
        except BaseException:
            catalogue.close()
            raise
        return catalogue

    def meta(self, connection: sqlite3.Connection | None = None) -> dict[str, str]:
        """The properties that were fixed when the index was created (see STORE_FORMAT.md).

        Raises:
            IndexFormatError: they do not match their checksum.
        """
        if connection is None:
            with self.reading() as own:
                return self.meta(own)
        rows = dict(connection.execute("SELECT key, value FROM meta WHERE key <> 'commits'"))
        checksum = rows.pop("checksum", None)
        values = {str(key): str(value) for key, value in rows.items()}
        if checksum != meta_checksum(values):
            raise IndexFormatError(f"{self.where} is damaged: its table meta is not the one that was written")
        return values

    @contextmanager
    def reading(self) -> Iterator[_Connection]:
        """A connection inside a read transaction: everything seen through it is of one commit."""
        with self._translated(), self._borrowed() as connection:
            if self.path is not None:
                connection.execute("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[_Connection]:
        """A connection inside a write transaction, committed at the end and rolled back on any exception.

        Raises:
            IndexLockedError: the thread is in the middle of such a write, or, in memory, of a read.
        """
        thread = threading.get_ident()
        if self._writer == thread or (self.path is None and self._turns.reading_here):
            raise IndexLockedError(
                f"a function that is called while {self.where} is read or written, such as a filter, cannot write to "
                "it: collect what is to be written, and write it afterwards"
            )
        with self._translated(), self._borrowed(alone=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._know_log(connection)
            try:
                self._writer = thread
                yield connection
                connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'commits'")
                self.check_place()
                self._check_log(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._writer = None
            # Where the directory or the log was replaced in this very moment, the write went to the one that is gone.
            self.check_place()
            self._check_log(connection)

    def shrink(self) -> None:
        """Give free pages back to the file system, as far as readers allow."""
        with self._translated(), self._borrowed(alone=True) as connection:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
        self.empty_log()

    def empty_log(self) -> None:
        """Move the write-ahead log into the database, unless a reader is in mid-search: then a later commit does."""
        with self._translated(), self._borrowed(alone=True) as connection:
            try:
                connection.execute("PRAGMA busy_timeout = 100")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(_TIMEOUT_SECONDS * 1000)}")

    def close(self) -> None:
        """Close the connections; one that another thread is using closes when that thread is done."""
        with self._lock:
            self.closed = True
            if self.path is None and self._turns.used:
                return
            idle, self._idle = self._idle, []
            lost = any(connection.log not in (None, self._log_place()) for connection in self._all)
            if (
                self.path is not None
                and self._place is not None
                and (lost or _place_of(self.path) not in (self._place, None))
            ):
                # SQLite would remove the write-ahead log by its path, which is another one now, or write from the old.
                _abandoned.extend(self._all)
                return
            for connection in idle:
                self._discard(connection)

    def abandon(self) -> None:
        """In a forked child: drop the parent's connections without closing them."""
        self._lock = threading.RLock()
        self._writer = None
        self._turns.after_fork()
        if self.path is not None:
            # SQLite connections must be neither used nor closed in a forked child.
            _abandoned.extend(self._all)
            self._idle, self._all = [], weakref.WeakSet()

    @contextmanager
    def _shared(self, *, alone: bool) -> Iterator[_Connection]:
        """The connection in memory: all threads that read have it at once, where SQLite was built for that."""
        turns = self._turns
        nested = turns.writing_here
        try:
            with turns.writing() if alone or sqlite3.threadsafety < _SERIALIZED else turns.reading():
                self._check_open()
                connection = self._idle[0]
                if not nested and connection.in_transaction:
                    # Of a write that an interrupt, or a fork, ended too early. Another reader may see it as well.
                    with suppress(sqlite3.OperationalError):
                        connection.execute("ROLLBACK")
                yield connection
        finally:
            if self.closed and not turns.used:
                self.close()

    @contextmanager
    def _borrowed(self, *, alone: bool = False) -> Iterator[_Connection]:
        """A connection outside any transaction, which comes back to the pool outside any transaction."""
        if self.path is None:
            with self._shared(alone=alone) as connection:
                yield connection
            return
        with self._lock:
            self._check_open()
            self.check_place()
            waiting = self._idle.pop() if self._idle else None
            if waiting is not None:
                self._check_log(waiting)
        if waiting is not None and waiting.frozen is not None and waiting.frozen != _signature(self.path):
            # The file was written since: an immutable connection has stale pages.
            self._discard(waiting)
            waiting = None
        connection = waiting or self._connect("ro" if self.read_only else "rw")
        try:
            yield connection
        finally:
            try:
                _end_transaction(connection)
            except BaseException:  # an interrupt, perhaps before the end
                _end_transaction(connection)
                raise
            self._know_log(connection)
            with self._lock:
                if self.closed:
                    self._discard(connection)
                else:
                    self._idle.append(connection)

    def check_place(self) -> None:
        """Check that the catalogue's path still leads to the file that was opened.

        Raises:
            IndexReplacedError: it leads to another file, or to none.
        """
        if self.path is None or self._place is None:
            return
        found = _place_of(self.path)
        if found != self._place:
            what = "moved or deleted" if found is None else "replaced by another one"
            raise IndexReplacedError(
                f"the index {self.path.parent} was {what} since it was opened; nothing was read or written there. "
                "Close this object and open the index again"
            )

    def _log_place(self) -> tuple[int, int] | None:
        return None if self.path is None else _place_of(self.path.with_name(self.path.name + "-wal"))

    def _know_log(self, connection: _Connection) -> None:
        """Note which log a connection has open, once it has used it."""
        if connection.log is None and connection.frozen is None:
            connection.log = self._log_place()

    def _check_log(self, connection: _Connection) -> None:
        """Check that the write-ahead log's path still leads to the file that a connection has open.

        Whoever opens and closes a file of the index in this process, as a backup does, takes SQLite's POSIX locks on
        it away. Another process that closes the index then believes to be the last, and deletes the log.

        Raises:
            StorageError: it leads to another one, or to none: what is written there is lost.
        """
        if connection.log is not None and self._log_place() != connection.log:
            raise StorageError(
                f"{self.where}-wal, the write-ahead log, was deleted or replaced while this process used it; nothing "
                "of this write is stored. Start the process again. Something may have read the files of the index in "
                "this process, which takes the locks on them away: save() makes a copy of an index that is in use"
            )

    def _connect(self, mode: str) -> _Connection:
        with refusals(f"cannot open {self.where}"):
            return self._connected(mode)

    def _connected(self, mode: str) -> _Connection:
        target = ":memory:" if self.path is None else f"{self.path.absolute().as_uri()}?mode={mode}"
        frozen = None
        if self.path is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):  # of which readers write the last three as well
                check_regular(self.path.with_name(self.path.name + suffix), written=bool(suffix) or mode != "ro")
            frozen = _signature(self.path) if mode == "ro" and _frozen(self.path) else None
        with inside_sqlite():
            connection = sqlite3.connect(
                target + ("&immutable=1" if frozen else ""),
                uri=True,
                timeout=_TIMEOUT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=_Connection,
                # Since Python 3.12 two threads can take one statement from the cache of a connection that they share.
                cached_statements=128 if self.path is not None else 0,
            )
        connection.frozen = frozen
        # Statements give Python the floor now and then, so that a signal ends a long one.
        # In memory a forked child goes on with this connection, which must not be in mid-call then.
        connection.set_progress_handler(_nothing if self.path is None else breathe, _BREATH)
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
        except UnicodeDecodeError as error:  # raised while sqlite3 decodes its message about a damaged schema
            connection.close()
            raise IndexFormatError(f"{self.where} is damaged: {error.object!r}") from error
        except sqlite3.DatabaseError as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
            raise
        if self.path is not None:
            self._place = self._place or _place_of(self.path)
            self.check_place()
        self._all.add(connection)
        return connection

    def _discard(self, connection: _Connection) -> None:
        self._all.discard(connection)
        with inside_sqlite():
            connection.close()

    def _check_open(self) -> None:
        if self.closed:
            raise IndexClosedError("the index is closed")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of SQLite to `fastlane_rag.errors`."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from error
            self.check_place()  # raises IndexReplacedError where the index was moved or removed
            # Errors about single values have no error code.
            value = "Could not decode" in str(error) or "malformed JSON" in str(error)
            if value or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise StorageError(f"cannot use {self.where}: {error}; nothing of this write is stored") from error
            if self.path is not None and code == sqlite3.SQLITE_CANTOPEN:
                with refusals(f"cannot open {self.where}"):  # which SQLite does not say why
                    os.close(os.open(self.path, os.O_RDONLY))
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise IndexReadOnlyError(
                    f"cannot use {self.where}: {error}. A directory that cannot be written needs "
                    "open(..., read_only=True), and an index that was closed properly"
                ) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise IndexLockedError(f"{self.where} stayed locked for {_TIMEOUT_SECONDS:.0f} s") from error
            if code == sqlite3.SQLITE_PROTOCOL:
                raise StorageError(f"cannot use {self.where}: {error}. Put the index on a local disk") from error
            raise


_abandoned: list[_Connection] = []


def _frozen(path: Path) -> bool:
    """Whether to open a database as immutable: no file can be created beside it, and there is no write-ahead log.

    Without a log and without the right to create one, SQLite reads no other way. On a read-only file system nobody can
    write. Elsewhere the owner may write again, so each use compares the file's signature with the one before.
    """
    log = path.with_name(path.name + "-wal")
    effective = os.access in os.supports_effective_ids  # as the kernel checks; a server may have dropped its rights
    return not os.access(path.parent, os.W_OK, effective_ids=effective) and not (log.exists() and log.stat().st_size)


def _signature(path: Path) -> tuple[int, ...]:
    """A value that changes when somebody writes to a database."""
    log = path.with_name(path.name + "-wal")
    found, size = path.stat(), log.stat().st_size if log.exists() else 0
    return found.st_ino, found.st_size, found.st_mtime_ns, size


def _place_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _end_transaction(connection: _Connection) -> None:
    # A statement that was not read to its end, as in a generator that an error's traceback keeps, holds its snapshot
    # beyond the transaction.
    for cursor in list(connection.cursors):
        cursor.close()
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _nothing() -> int:
    return 0
