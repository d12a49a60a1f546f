"""The writer's lock of an index directory. The operating system frees it when its process ends."""

import json
import os
import socket
import sys
from contextlib import suppress

from fastlane_rag.errors import IndexLockedError, IndexReadOnlyError
from fastlane_rag.storage.folder import Folder
from fastlane_rag.storage.layout import LOCK

__all__ = ["WriterLock"]

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    # Windows locks block reading. Lock a byte far behind the text, so that others can read who holds the lock.
    _LOCKED_BYTE = 1 << 30

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        # flock, not lockf: flock also excludes a second index object of the same process.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class WriterLock:
    """Exclusive lock on a file of an index directory, whose text says which process holds it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises:
            IndexLockedError: another index object holds it; the message names its process.
            IndexReadOnlyError: the directory cannot be written.
        """
        if self._fd is not None:
            return
        try:
            fd = self._folder.open(LOCK, os.O_RDWR | os.O_CREAT)
        except PermissionError as error:
            raise IndexReadOnlyError(f"{self._folder.path} cannot be written: {error}") from error
        try:
            free = _try_lock(fd)
        except BaseException:
            os.close(fd)
            raise
        if not free:
            holder = self._holder(fd)
            os.close(fd)
            raise IndexLockedError(
                f"{self._folder.path} is being written by {holder}; close that index (or end that process) "
                "and try again. Reading needs no lock."
            )
        self._fd = fd
        holder_text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, holder_text)
        os.ftruncate(fd, len(holder_text))

    def release(self) -> None:
        """Free the lock; does nothing where it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(OSError):  # closing gives it back as well
                _unlock(fd)
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: close the inherited handle; the parent keeps the lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _holder(self, fd: int) -> str:
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            holder = json.loads(os.read(fd, 4096))
            pid, host = int(holder["pid"]), str(holder["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
        here = host == socket.gethostname()
        mine = " (this process, through another index object)" if here and pid == os.getpid() else ""
        return f"process {pid} on {host}{mine}"
