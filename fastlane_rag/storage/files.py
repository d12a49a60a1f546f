"""Where segment files live: a directory, or memory."""

import errno
import io
import os
import re
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.storage.layout import DRAFT_SUFFIX, SEGMENT_SUFFIX

__all__ = ["DirectoryStore", "Draft", "MemoryStore", "Store", "sync_directory"]

_NAME = re.compile(r"[0-9a-f]{32}")


class Draft(Protocol):
    """A file being written, invisible to readers until it is published."""

    file: IO[bytes]

    def read_back(self) -> NDArray[np.uint8]:
        """All that was written so far."""
        ...

    def publish(self) -> str:
        """Make the file durable and give it its final name, which is returned."""
        ...

    def discard(self) -> None:
        """Remove the file."""
        ...


class Store(Protocol):
    """Named immutable files."""

    def draft(self) -> Draft:
        """Begin a file."""
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
        """Delete everything but these: what an interrupted write left."""
        ...

    def describe(self, name: str) -> str:
        """The file, for error messages."""
        ...


class DirectoryStore:
    """Files in a directory, mapped into memory when read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def draft(self) -> Draft:
        """Begin a file under a temporary name."""
        return _FileDraft(self._path)

    def map(self, name: str, size: int) -> NDArray[np.uint8]:
        """Map a file; pages are read when touched."""
        path = self._file(name)
        found = path.stat().st_size
        if found != size:
            raise IndexFormatError(f"{path} is damaged: it has {found} bytes instead of {size}")
        # Copy-on-write gives arrays that torch takes without a warning; nothing ever writes to them. As a plain array,
        # for parts of a memmap take five times as long to cut.
        return np.asarray(np.memmap(path, np.uint8, mode="c"))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; on Windows, one that is still mapped stays until a later sweep."""
        for name in names:
            _unlink(self._file(name))

    def sweep(self, keep: Iterable[str]) -> None:
        """Delete drafts and segments that no catalogue entry names."""
        kept = {f"{name}{SEGMENT_SUFFIX}" for name in keep}
        for path in self._path.iterdir():
            ours = path.suffix in (SEGMENT_SUFFIX, DRAFT_SUFFIX) and _NAME.fullmatch(path.stem)
            if ours and path.name not in kept:
                _unlink(path)

    def describe(self, name: str) -> str:
        """The file's path."""
        return str(self._file(name))

    def _file(self, name: str) -> Path:
        # Names come from the catalogue, which may have been tampered with: they must not leave the directory.
        if not _NAME.fullmatch(name):
            raise IndexFormatError(f"the catalogue beside {self._path} names a segment {name!r}: not a segment name")
        return self._path / f"{name}{SEGMENT_SUFFIX}"


class _FileDraft:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = uuid.uuid4().hex
        self._path = directory / f"{self._name}{DRAFT_SUFFIX}"
        self.file: IO[bytes] = self._path.open("xb+", buffering=1 << 20)

    def read_back(self) -> NDArray[np.uint8]:
        self.file.flush()
        return np.memmap(self._path, np.uint8, mode="r")

    def publish(self) -> str:
        self.file.flush()
        _sync(self.file.fileno())
        self.file.close()
        self._path.rename(self._path.with_suffix(SEGMENT_SUFFIX))
        sync_directory(self._directory)
        return self._name

    def discard(self) -> None:
        # Closing writes out the buffer, which fails again where the disk is full; the file goes either way.
        try:
            self.file.close()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
        finally:
            _unlink(self._path)


class MemoryStore:
    """Files held in memory; gone with the index."""

    def __init__(self) -> None:
        self._files: dict[str, NDArray[np.uint8]] = {}

    def __str__(self) -> str:
        return "memory"

    def draft(self) -> Draft:
        """Begin a buffer."""
        return _MemoryDraft(self._files)

    def map(self, name: str, size: int) -> NDArray[np.uint8]:
        """The buffer itself."""
        return self._files[name]

    def remove(self, names: Iterable[str]) -> None:
        """Forget buffers; arrays over them stay valid."""
        for name in names:
            self._files.pop(name, None)

    def sweep(self, keep: Iterable[str]) -> None:
        """Forget all other buffers."""
        self.remove(set(self._files) - set(keep))

    def describe(self, name: str) -> str:
        """The segment in words."""
        return f"the in-memory segment {name}"


class _MemoryDraft:
    def __init__(self, files: dict[str, NDArray[np.uint8]]) -> None:
        self._files = files
        self._buffer = io.BytesIO()
        self.file: IO[bytes] = self._buffer

    def read_back(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._buffer.getvalue(), np.uint8)

    def publish(self) -> str:
        name = uuid.uuid4().hex
        self._files[name] = np.frombuffer(self._buffer.getbuffer(), np.uint8)
        return name

    def discard(self) -> None:
        self._buffer.close()


def sync_directory(path: Path) -> None:
    """Make a rename or a new file in a directory durable (Windows has no such call)."""
    if sys.platform == "win32":  # pragma: no cover
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def _sync(fd: int) -> None:
    if sys.platform == "darwin":  # pragma: no cover
        import fcntl

        # There, fsync leaves the data in the drive's cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        # Windows refuses while a reader maps the file. The next writer's sweep removes it.
        if sys.platform != "win32":
            raise
