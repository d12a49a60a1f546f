"""An index without its model: catalogue, segments, writer's lock and snapshots, in a directory or memory."""

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastlane_rag.codecs.base import Codec
from fastlane_rag.codecs.policy import residual_bits
from fastlane_rag.errors import (
    FastLaneError,
    IndexClosedError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadOnlyError,
    IndexReplacedError,
)
from fastlane_rag.storage.catalogue import Catalogue
from fastlane_rag.storage.creation import create_directory, open_segments
from fastlane_rag.storage.files import DirectoryStore, MemoryStore, Store
from fastlane_rag.storage.folder import Folder
from fastlane_rag.storage.layout import CATALOGUE, MARKER
from fastlane_rag.storage.lock import TIMEOUT_SECONDS, FolderLock, WriterLock
from fastlane_rag.storage.marker import read_marker, write_marker
from fastlane_rag.storage.records import Reader, Writer
from fastlane_rag.storage.refusals import refusal, refusals
from fastlane_rag.storage.snapshot import Snapshot, load_snapshot
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.types import IndexStats

__all__ = ["Storage", "View"]

# An open index may be overwritten, but only by one whose rows mean the same.
_FIXED = ("id", "fingerprint", "dim", "document_budget")
# A reader that another process's commits keep overtaking is unlucky; one that fails this often has lost a file.
_ATTEMPTS = 20


@dataclass(frozen=True)
class View:
    """One commit of an index, for as long as its read transaction lasts."""

    reader: Reader
    snapshot: Snapshot


class Storage:
    """The stored state of an index and the transactions on it. Safe to use from many threads.

    Attributes:
        path: the directory; None in memory.
        folder: its handle.
        catalogue: documents, and what is live.
        store: the segments' files.
        meta: what was fixed at creation.
        bits: a dimension, that segments are to have once there is a codec; None for fp16.
        dim: of a token row.
        changing: held by a thread while it changes the index.
        device: a CUDA device that may train codecs; None for the CPU.
    """

    def __init__(
        self,
        path: Path | None,
        catalogue: Catalogue,
        store: Store,
        lock: WriterLock | None,
        folder: Folder | None,
    ) -> None:
        self.path = path
        self.folder = folder
        self.catalogue = catalogue
        self.store = store
        self.meta = catalogue.meta()
        try:
            self.bits = residual_bits(self.meta["codec"])
            self.dim = int(self.meta["dim"])
        except (KeyError, ValueError) as error:
            raise IndexFormatError(f"{catalogue.where}: {error}") from error
        self.changing = threading.RLock()
        self.device: str | None = None
        self._lock = lock
        self._wrote = False
        self._snapshot: Snapshot | None = None
        self._codecs: dict[str, Codec] = {}
        self._loading = threading.Lock()

    @classmethod
    def create(
        cls,
        path: Path | None,
        meta: Mapping[str, str | int],
        filter_keys: tuple[str, ...],
        *,
        overwrite: bool,
        timeout: float = TIMEOUT_SECONDS,
    ) -> "Storage":
        """Create an empty index, with a random id of its own."""
        meta = {**meta, "id": uuid.uuid4().hex}
        if path is None:
            return cls(None, Catalogue.create(None, meta, filter_keys), MemoryStore(), None, None)
        return cls(path, *create_directory(path, meta, filter_keys, overwrite=overwrite, timeout=timeout))

    @classmethod
    def open(cls, path: Path, *, read_only: bool, timeout: float = TIMEOUT_SECONDS) -> "Storage":
        """Open an index directory.

        Raises:
            IndexNotFoundError: there is no index.
            IndexReadOnlyError: the directory may not be read.
            IndexFormatError: a file is damaged or newer, or the catalogue lost commits.
        """
        try:
            folder = Folder(path)
        except NotADirectoryError as error:
            raise IndexNotFoundError(f"{path} holds no FastLane index: it is no directory") from error
        except FileNotFoundError as error:
            raise IndexNotFoundError(f"{path} holds no FastLane index (there is no {CATALOGUE} in it)") from error
        except OSError as error:
            raise refusal(f"cannot open the index {path}", error) from error
        catalogue = None
        try:
            # Before the catalogue: commits made between the two readings must not look like a loss.
            with refusals(f"cannot open the index {path}"):
                expected = _marked_commits(folder)
            catalogue = Catalogue.open(path / CATALOGUE, read_only=read_only)
            with catalogue.reading() as connection:
                commits = Reader(connection, catalogue.where).commits()
            if expected is not None and commits < expected:
                raise IndexFormatError(
                    f"{catalogue.where} has {commits} commits, but {expected} were made: its write-ahead log was "
                    "damaged or removed, or an older copy was put in its place. Restore the directory from a "
                    f"backup; to go on without the lost writes, delete {path / MARKER}"
                )
            with refusals(f"cannot open the index {path}"):
                store = DirectoryStore(open_segments(folder))
            return cls(path, catalogue, store, WriterLock(folder, timeout), folder)
        except BaseException:
            if catalogue is not None:
                catalogue.close()
            folder.close()
            raise

    @property
    def filter_keys(self) -> tuple[str, ...]:
        """Metadata keys with an index of their own."""
        with self.catalogue.reading() as connection:
            return tuple(Reader(connection, self.catalogue.where).filter_keys())

    def codec(self, reader: Reader, name: str) -> Codec:
        """The codec of this name, read once.

        Raises:
            IndexFormatError: there is none, or it is damaged.
        """
        known = self._codecs.get(name)
        if known is None:
            known = self._codecs.setdefault(name, reader.codec(name))  # the first of several threads wins
        return known

    @contextmanager
    def view(self) -> Iterator[View]:
        """A consistent view of the latest commit.

        Raises:
            IndexFormatError: a file is missing or damaged.
            IndexLockedError: commits overtook the reader again and again.
            IndexClosedError: the index is closed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            with self.catalogue.reading() as connection:
                reader = Reader(connection, self.catalogue.where)
                snapshot = self._current(reader, last_attempt=attempt == _ATTEMPTS)
                if snapshot is not None:
                    yield View(reader, snapshot)
                    return
        raise IndexLockedError(
            f"{self.catalogue.where}: {_ATTEMPTS} commits in a row overtook this reader; try again when fewer are made"
        )

    @contextmanager
    def change(self) -> Iterator[Writer]:
        """A write transaction.

        Raises:
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
        """
        with self.turn(), self.changing:
            with self.catalogue.writing() as connection:
                writer = Writer(connection, self.catalogue.where)
                yield writer
                commits = writer.commits() + 1
            if self.folder is not None:
                # The write is stored. A marker that lags behind, as it may after a crash, only notices less.
                with suppress(OSError, IndexFormatError):
                    write_marker(self.folder, commits)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the writer during the block: a write, or several that belong together. Blocks of one thread may nest.

        The threads of this object write in one turn together; other objects and processes wait.

        Raises:
            IndexClosedError: the index is closed.
            IndexReadOnlyError: the index was opened for reading, or its directory cannot be written.
            IndexReplacedError: the directory is not the one that was opened.
            IndexLockedError: others wrote for as long as this object waits.
        """
        if self.catalogue.closed:
            raise IndexClosedError("the index is closed")
        if self.catalogue.read_only:
            raise IndexReadOnlyError(f"{self.path} was opened with read_only=True")
        self.catalogue.check_place()
        if self._lock is None:
            yield
            return
        with self._lock.turn(self._sweep):
            self._wrote = True
            yield

    def upkeep_lock(self) -> FolderLock | None:
        """A lock for whoever merges and trains, among the objects that have this index open; None in memory."""
        return FolderLock(self.store.folder) if isinstance(self.store, DirectoryStore) else None

    def _sweep(self) -> None:
        """Remove files that interrupted writes left."""
        with self.catalogue.reading() as connection:
            infos = Reader(connection, self.catalogue.where).segments().values()
        self.store.sweep(info.name for info in infos)

    @property
    def document_budget(self) -> float | None:
        """Tokens that are kept of a document, or their share; None for all, and in an index that does not say."""
        budget = float(self.meta.get("document_budget") or 0)
        return int(budget) if budget >= 1 else budget or None

    @property
    def max_document_tokens(self) -> int | None:
        """Tokens that are encoded of a document; None for all, and in an index that does not say."""
        return int(self.meta["max_document_tokens"]) if self.meta.get("max_document_tokens") else None

    @property
    def truncate_dim(self) -> int | None:
        """Dimensions that are kept of the model's embeddings; None for all."""
        return int(self.meta["truncate_dim"]) if self.meta.get("truncate_dim") else None

    def stats(self) -> IndexStats:
        """What the index holds and takes."""
        with self.view() as view:
            snapshot, tokens = view.snapshot, view.reader.tokens()
            size = view.reader.bytes() + sum(info.bytes for info in view.reader.segments().values())
        segments = [part for part in snapshot.parts if part.segment != PENDING]
        return IndexStats(
            path=self.path,
            documents=snapshot.documents,
            tokens=tokens,
            segments=len(segments),
            pending=snapshot.documents - sum(part.documents for part in segments),
            dead=sum(len(part) - part.documents for part in segments),
            bytes=size,
            dim=self.dim,
            codec=self.meta["codec"],
            model=self.meta["model"],
            fingerprint=self.meta["fingerprint"],
            filter_keys=self.filter_keys,
            commits=snapshot.commits,
            document_budget=self.document_budget,
            max_document_tokens=self.max_document_tokens,
        )

    def close(self) -> None:
        """Close the catalogue and give the writer's lock back."""
        with self.changing:
            if self._wrote and not self.catalogue.closed:
                # Readers elsewhere may outlive us and cannot empty the log themselves. Nothing is lost if it stays.
                with suppress(FastLaneError):
                    self.catalogue.empty_log()
            self.catalogue.close()
            self._snapshot = None
            if self._lock is not None:
                self._lock.close()
            self.store.close()
            if self.folder is not None:
                self.folder.close()

    def after_fork(self) -> None:
        """In a forked child: start over with connections and locks of its own."""
        self.changing = threading.RLock()
        self._loading = threading.Lock()
        self.catalogue.abandon()
        if self._lock is not None:
            self._lock.forget()

    def _current(self, reader: Reader, *, last_attempt: bool) -> Snapshot | None:
        """The snapshot of the reader's commit; None when another thread has seen a later one."""
        commits = reader.commits()
        with self._loading:
            known = self._snapshot
            if known is not None and known.commits == commits:
                return known
            if known is not None and known.commits > commits:
                return None
            self._adopt(reader)
            try:
                snapshot = load_snapshot(reader, self.store, self.codec, self.dim, known)
            except FileNotFoundError as error:
                # A later commit may have removed the segment between our transaction's start and now.
                if last_attempt:
                    raise IndexFormatError(f"the segment {error.filename} is missing") from error
                return None
            self._snapshot = snapshot
            return snapshot

    def _adopt(self, reader: Reader) -> None:
        """Take over what an overwriting changed.

        Raises:
            IndexReplacedError: the index is another one now, or one of another model.
        """
        meta = self.catalogue.meta(reader.connection)
        if meta == self.meta:
            return
        for key in _FIXED:
            before, now = self.meta.get(key), meta.get(key)
            if None not in (before, now) and before != now:
                raise IndexReplacedError(
                    f"the index {self.path} was overwritten by another one since it was opened ({key}: {before!r} "
                    f"before, {now!r} now). Close this object and open the index again"
                )
        self.meta, self.bits = meta, residual_bits(meta["codec"])


def _marked_commits(folder: Folder) -> int | None:
    try:
        return read_marker(folder)
    except ValueError:
        return None  # `verify` tells; the catalogue itself may be sound
