"""Where segment files live: a directory, or memory."""

import errno
import io
import os
import re
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.storage.folder import Folder, sync_file
from fastlane_rag.storage.layout import DRAFT_SUFFIX, SEGMENT_SUFFIX
from fastlane_rag.storage.locking import try_lock
from fastlane_rag.storage.refusals import refusal, refusals

__all__ = ["DirectoryStore", "Draft", "MemoryStore", "Store"]

_NAME = re.compile(r"[0-9a-f]{32}")


class Draft(Protocol):
    """A file being written, invisible to readers until it is published."""

    file: IO[bytes]

    def read_back(self) -> NDArray[np.uint8]:
        """The bytes written so far."""
        ...

    def sync(self) -> None:
        """Sync the bytes written so far to disk."""
        ...

    def publish(self) -> str:
        """Give the file, which is synced, its final name. Returns the name."""
        ...

    def discard(self) -> None:
        """Remove the file."""
        ...


class Store(Protocol):
    """Named immutable files."""

    def draft(self) -> Draft:
        """Begin a file."""
        ...

    def scratch(self) -> IO[bytes]:
        """An empty file without a name, gone when it is closed."""
        ...

    def map(self, name: str, size: int) -> NDArray[np.uint8]:
        """The bytes of a file. A file once mapped stays readable after `remove`.

        Raises:
            FileNotFoundError: there is no such file.
            IndexFormatError: it has another size.
        """
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that no catalogue entry names any more."""
        ...

    def sweep(self, keep: Iterable[str]) -> None:
        """Delete all files but these and the drafts that somebody is writing."""
        ...

    def describe(self, name: str) -> str:
        """Name the file in error messages."""
        ...

    def close(self) -> None:
        """Free the store. It can open no more files; mapped files stay readable."""
        ...


class DirectoryStore:
    """Files in a directory, mapped into memory when read.

    Args:
        folder: the directory, by its handle, so that replacing its path changes nothing.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @property
    def folder(self) -> Folder:
        """The directory."""
        return self._folder

    def __str__(self) -> str:
        return str(self._folder.path)

    def draft(self) -> Draft:
        """Begin a file under a temporary name."""
        return _FileDraft(self._folder)

    def scratch(self) -> IO[bytes]:
        """A file on the same disk, where there is room for an index; the system's temporary folder may be full."""
        name = f"{uuid.uuid4().hex}{DRAFT_SUFFIX}"
        fd = self._folder.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_TEMPORARY", 0))
        if not hasattr(os, "O_TEMPORARY"):
            self._folder.unlink(name)
        return os.fdopen(fd, "rb+", buffering=1 << 20)

    def map(self, name: str, size: int) -> NDArray[np.uint8]:
        """Map a file; pages are read when touched."""
        path = self._path(name)
        try:
            fd = self._folder.open(path.name, os.O_RDONLY)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
        except OSError as error:
            raise refusal(f"cannot read {path}", error) from error
        with refusals(f"cannot read {path}"), os.fdopen(fd, "rb") as file:
            found = os.fstat(fd).st_size
            if found != size:
                raise IndexFormatError(f"{path} is damaged: it has {found} bytes instead of {size}")
            # Copy-on-write, because torch warns about read-only arrays; nothing ever writes to them. A plain array,
            # because slicing a memmap takes five times as long.
            return np.asarray(np.memmap(file, np.uint8, mode="c"))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; on Windows, one that is still mapped stays until a later sweep."""
        for name in names:
            with refusals(f"cannot remove {self._path(name)}"):
                _unlink(self._folder, self._path(name).name)

    def sweep(self, keep: Iterable[str]) -> None:
        """Delete segments that no catalogue entry names, and drafts whose writer is gone."""
        kept = {f"{name}{SEGMENT_SUFFIX}" for name in keep}
        with refusals(f"cannot tidy up {self}"):
            for name in self._folder.names():
                stem, dot, suffix = name.partition(".")
                ours = dot + suffix in (SEGMENT_SUFFIX, DRAFT_SUFFIX) and _NAME.fullmatch(stem)
                if ours and name not in kept and not (dot + suffix == DRAFT_SUFFIX and _in_use(self._folder, name)):
                    _unlink(self._folder, name)

    def describe(self, name: str) -> str:
        """The file's path."""
        return str(self._path(name))

    def close(self) -> None:
        """Close the directory's handle; mapped files stay readable."""
        self._folder.close()

    def _path(self, name: str) -> Path:
        # Names come from the catalogue, which may have been tampered with. They must not lead out of the directory.
        if not _NAME.fullmatch(name):
            raise IndexFormatError(f"the catalogue beside {self} names a segment {name!r}: not a segment name")
        return self._folder.path / f"{name}{SEGMENT_SUFFIX}"


class _FileDraft:
    """A draft, locked while it is open: whoever sweeps the directory meanwhile leaves it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._name = uuid.uuid4().hex
        self._file_name = f"{self._name}{DRAFT_SUFFIX}"
        fd = folder.open(self._file_name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if sys.platform != "win32":  # which deletes no open file
            with suppress(OSError):  # without locks, a sweep deletes it, and `publish` says so
                try_lock(fd)
        self.file: IO[bytes] = os.fdopen(fd, "rb+", buffering=1 << 20)

    def read_back(self) -> NDArray[np.uint8]:
        self.file.flush()
        return np.memmap(self.file, np.uint8, mode="r")

    def sync(self) -> None:
        self.file.flush()
        sync_file(self.file.fileno())

    def publish(self) -> str:
        self.file.close()
        self._folder.rename(self._file_name, f"{self._name}{SEGMENT_SUFFIX}")
        self._folder.sync()
        return self._name

    def discard(self) -> None:
        # Closing writes out the buffer, which fails again where the disk is full; the file goes either way.
        with refusals(f"cannot remove {self._folder.path / self._file_name}"):
            try:
                self.file.close()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
            finally:
                _unlink(self._folder, self._file_name)


class MemoryStore:
    """Files held in memory; gone with the index."""

    def __init__(self) -> None:
        self._files: dict[str, NDArray[np.uint8]] = {}

    def __str__(self) -> str:
        return "memory"

    def draft(self) -> Draft:
        """Begin a buffer."""
        return _MemoryDraft(self._files)

    def scratch(self) -> IO[bytes]:
        """A buffer."""
        return io.BytesIO()

    def map(self, name: str, size: int) -> NDArray[np.uint8]:
        """The buffer itself."""
        try:
            return self._files[name]
        except KeyError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error

    def remove(self, names: Iterable[str]) -> None:
        """Drop buffers; arrays over them stay valid."""
        for name in names:
            self._files.pop(name, None)

    def sweep(self, keep: Iterable[str]) -> None:
        """Drop all other buffers."""
        self.remove(set(self._files) - set(keep))

    def describe(self, name: str) -> str:
        """The segment in words."""
        return f"the in-memory segment {name}"

    def close(self) -> None:
        """Nothing to do."""


class _MemoryDraft:
    def __init__(self, files: dict[str, NDArray[np.uint8]]) -> None:
        self._files = files
        self._buffer = io.BytesIO()
        self.file: IO[bytes] = self._buffer

    def read_back(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._buffer.getvalue(), np.uint8)

    def sync(self) -> None:
        pass

    def publish(self) -> str:
        name = uuid.uuid4().hex
        self._files[name] = np.frombuffer(self._buffer.getbuffer(), np.uint8)
        return name

    def discard(self) -> None:
        self._buffer.close()


def _in_use(folder: Folder, name: str) -> bool:
    """Whether somebody is writing a draft, and has it locked."""
    try:
        fd = folder.open(name, os.O_RDONLY)
    except (OSError, IndexFormatError):
        return False
    try:
        return not try_lock(fd)
    except OSError:  # the file system has no locks
        return False
    finally:
        os.close(fd)


def _unlink(folder: Folder, name: str) -> None:
    try:
        folder.unlink(name)
    except PermissionError:
        # Windows refuses while a reader maps the file. The next writer's sweep removes it.
        if sys.platform != "win32":
            raise
