"""A directory whose files are opened by name relative to its handle, and never through a link.

An index directory may come from a stranger, and may be replaced while it is open. A file opened through the directory's
handle is always in that directory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastlane_rag.errors import IndexFormatError, InvalidInputError
from fastlane_rag.lengths import kind, plain
from fastlane_rag.storage.refusals import refusals

__all__ = ["Folder", "check_regular", "index_path", "sync_directory", "sync_file"]

# Used where the platform has them: directory handles, no following of links, no blocking on pipes.
_HANDLES = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least, as C:// is a drive


class Folder:
    """An open directory.

    Args:
        path: the directory's path. The path may be a link; files in the directory may not.
        missing_ok: whether the directory may be missing, which then counts as empty.

    Attributes:
        path: as given, for messages.

    Raises:
        FileNotFoundError: the path does not exist.
        NotADirectoryError: the path is not a directory.
    """

    def __init__(self, path: Path, *, missing_ok: bool = False) -> None:
        self.path = path
        self._fd: int | None = None
        if _HANDLES and not (missing_ok and not path.exists()):
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))

    @property
    def fd(self) -> int | None:
        """The directory's handle; None where the platform has none, or after `close`."""
        return self._fd

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open a regular file in the directory. Returns its file descriptor.

        Args:
            name: the file's name, without a path.
            flags: `os.O_RDONLY` and the like.
            mode: permissions of a file that is created.

        Raises:
            FileNotFoundError: there is no such file.
            IndexFormatError: it is a link, a pipe, a device or a directory; or it is to be written and has another name
                as well, under which it would change too.
        """
        try:
            fd = os.open(self._at(name), flags | _FLAGS, mode, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
                raise IndexFormatError(f"{self.path / name} is not a regular file: {error.strerror}") from error
            raise
        try:
            _check_file(self.path / name, os.fstat(fd), written=bool(flags & (os.O_WRONLY | os.O_RDWR)))
        except IndexFormatError:
            os.close(fd)
            raise
        return fd

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a small file.

        Raises:
            FileNotFoundError: there is no such file.
            IndexFormatError: it is not a regular file, or larger than `most` bytes.
        """
        fd = self.open(name, os.O_RDONLY)
        try:
            data = os.read(fd, most + 1)
        finally:
            os.close(fd)
        if len(data) > most:
            raise IndexFormatError(f"{self.path / name} has more than the {most} bytes that it may have")
        return data

    def names(self) -> list[str]:
        """Names of all entries of the directory."""
        return os.listdir(self.path if self._fd is None else self._fd)  # noqa: PTH208 (by the directory's handle)

    def unlink(self, name: str) -> None:
        """Remove a file or a link; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._fd)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        os.rename(self._at(old), self._at(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def sync(self) -> None:
        """Sync the directory, so that renames and new files survive a power loss (Windows has no such call)."""
        if self._fd is not None:
            sync_file(self._fd)

    def close(self) -> None:
        """Close the directory's handle."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _at(self, name: str) -> str | Path:
        return self.path / name if self._fd is None else name


def sync_file(fd: int) -> None:
    """Sync a file or directory to disk."""
    if sys.platform == "darwin":  # pragma: no cover
        import fcntl

        # On macOS, fsync leaves the data in the drive's cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Sync a directory, so that a new entry in it survives a power loss."""
    folder = Folder(path)
    try:
        folder.sync()
    finally:
        folder.close()


def check_regular(path: Path, *, written: bool) -> None:
    """Check that a file that SQLite will open by its path is a regular file or absent.

    Args:
        path: the file.
        written: whether SQLite may write to it.

    Raises:
        IndexFormatError: it is a link, a pipe, a device or a directory; or it may be written and has another name.
    """
    with suppress(FileNotFoundError):
        _check_file(path, path.lstat(), written=written)


def _check_file(path: Path, found: os.stat_result, *, written: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise IndexFormatError(f"{path} is not a regular file; an index holds no links, pipes or devices")
    if written and found.st_nlink > 1:
        raise IndexFormatError(
            f"{path} has {found.st_nlink} names (hard links), and writing would change the file under all. Copy "
            "the index to a new directory, or open it with read_only=True"
        )


def index_path(path: Any) -> Path:
    """An index's directory as an absolute path.

    Raises:
        InvalidInputError: it is no path.
        StorageError: it is relative to a directory that is gone.
    """
    try:
        text = plain(os.fsdecode(path))
    except TypeError as error:
        raise InvalidInputError(f"the path of an index is a str or a Path, not {kind(path)}") from error
    if "\0" in text:
        raise InvalidInputError(f"the path of an index holds no NUL character, as {text!r} does")
    if _URL.match(text):
        raise InvalidInputError(
            f"the path of an index is that of a directory, not the address {text!r}. RemoteIndex(url) asks a server; a "
            "bucket has to be mounted, or its files copied to a directory"
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"the path of an index holds no half of a surrogate pair, as {text!r} does") from error
    with refusals(f"cannot use the path {text}"):
        return Path(text).absolute()
