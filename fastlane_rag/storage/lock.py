"""The writer's lock of an index directory: held for a write, and freed by the operating system when its process ends.

Writers queue: whoever is to have the lock next holds a second lock meanwhile, on the directory itself. So a process
that writes again and again lets others have their turn.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fastlane_rag.errors import IndexLockedError
from fastlane_rag.storage.folder import Folder
from fastlane_rag.storage.layout import LOCK
from fastlane_rag.storage.locking import try_lock, unlock
from fastlane_rag.storage.refusals import refusals

__all__ = ["TIMEOUT_SECONDS", "FolderLock", "WriterLock"]

TIMEOUT_SECONDS = 30.0
"""How long a write waits for other writers where nothing else is said."""

_PAUSE_SECONDS = 0.005


class WriterLock:
    """Exclusive lock on a file of an index directory, whose text names the process that holds it.

    The threads of one index object hold it together. Other objects and processes wait for their turn.

    Args:
        folder: the index directory.
        timeout: seconds to wait for a turn.
    """

    def __init__(self, folder: Folder, timeout: float = TIMEOUT_SECONDS) -> None:
        self._folder = folder
        self._timeout = timeout
        # One handle for the object's life: locking it twice is locking it once, so an interrupt between locking and
        # noting it leaves nothing locked for ever.
        self._fd: int | None = None
        self._held = False
        self._turns: dict[int, int] = {}  # how deep each thread is in `turn`
        self._mutex = threading.Lock()
        self._queued = False
        self._swept = False
        self._holder = "another process"

    @contextmanager
    def turn(self, sweep: Callable[[], None]) -> Iterator[None]:
        """Hold the lock during the block. Blocks of one thread may nest.

        Args:
            sweep: removes what interrupted writes left. Called before the first write of this object, and after writes
                that failed or whose process died.

        Raises:
            IndexLockedError: others held the lock for the whole timeout; the message names the process.
            IndexReadOnlyError: the directory cannot be written.
            StorageError: the file system has no locks, or failed.
        """
        thread = threading.get_ident()
        depth = self._turns.get(thread, 0) if self._held else 0
        try:
            if depth:
                self._turns[thread] = depth + 1
            else:
                with refusals(f"cannot write to the index {self._folder.path}"):
                    self._begin(thread, sweep)
            yield
        except BaseException:
            self._swept = False
            raise
        finally:
            if depth:
                self._turns[thread] = depth
            else:
                self._turns.pop(thread, None)
                with self._mutex:
                    if not self._turns:
                        self._release()

    def close(self) -> None:
        """Free the lock, whoever holds it."""
        with self._mutex:
            self._turns.clear()
            self._release()
            if self._fd is not None:
                fd, self._fd = self._fd, None
                os.close(fd)

    def forget(self) -> None:
        """In a forked child: close the inherited handle; the parent keeps the lock."""
        self._mutex = threading.Lock()
        self._turns, self._held, self._queued, self._swept = {}, False, False, False
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _begin(self, thread: int, sweep: Callable[[], None]) -> None:
        end = time.monotonic() + self._timeout
        while True:
            with self._mutex:
                if not self._turns:
                    self._unlock()  # after an interrupt it may be held for nobody
                shared = self._held and not self._others_wait()
                if shared or (not self._held and self._take()):
                    self._turns[thread] = 1
                    if not shared and not self._swept:
                        sweep()
                        self._swept = True
                    return
            if time.monotonic() >= end:
                raise IndexLockedError(
                    f"{self._folder.path} is being written by {self._holder}, and was for the {self._timeout:g} s that "
                    "this write waited (timeout=). Try again when that write is done. Reading needs no lock."
                )
            time.sleep(_PAUSE_SECONDS)

    def _take(self) -> bool:
        """Queue, and take the lock if it is free."""
        self._queued = self._queued or self._lock_directory()
        if not self._queued:
            return False
        if self._fd is None:
            self._fd = self._folder.open(LOCK, os.O_RDWR | os.O_CREAT)
        self._held = try_lock(self._fd)
        os.lseek(self._fd, 0, os.SEEK_SET)
        text = os.read(self._fd, 4096)
        if self._held:
            self._swept = self._swept and not text  # a holder that ends its turn removes its name
            self._sign(self._fd)
            self._leave_queue()
        else:
            self._holder = _holder(text)
        return self._held

    def _sign(self, fd: int) -> None:
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, text)
        os.ftruncate(fd, len(text))

    def _release(self) -> None:
        self._leave_queue()
        self._unlock()

    def _unlock(self) -> None:
        if self._fd is not None and self._held:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
            with suppress(OSError):
                unlock(self._fd)
            self._held = False

    def _others_wait(self) -> bool:
        """Whether another writer is next."""
        if self._lock_directory():
            self._queued = True
            self._leave_queue()
            return False
        return True

    def _lock_directory(self) -> bool:
        """Become the next writer; false where another one is. Without directory handles everybody is."""
        if self._folder.fd is None:
            return True
        try:
            return try_lock(self._folder.fd)
        except OSError:  # network file systems lock no directories
            return True

    def _leave_queue(self) -> None:
        if self._queued:
            self._queued = False
            if self._folder.fd is not None:
                with suppress(OSError):
                    unlock(self._folder.fd)


class FolderLock:
    """A lock on a directory, for work that only one object at a time need do.

    Where directories cannot be locked everybody gets it, and some do in vain what another does as well.

    Args:
        folder: the directory.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fd: int | None = None

    def take(self) -> bool:
        """Take the lock; false where another object has it."""
        if self._folder.fd is None:
            return True
        if self._fd is None:
            # A handle of its own: locks belong to handles.
            self._fd = os.open(".", os.O_RDONLY, dir_fd=self._folder.fd)
        try:
            return try_lock(self._fd)
        except OSError:  # network file systems lock no directories
            return True

    def give_back(self) -> None:
        """Free the lock; in a forked child, only let go of the parent's."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _holder(text: bytes) -> str:
    """The process that a lock's text names."""
    try:
        holder = json.loads(text)
        pid, host = int(holder["pid"]), str(holder["host"])
    except (ValueError, KeyError, TypeError):
        return "another process"
    here = host == socket.gethostname()
    mine = " (this process, through another index object)" if here and pid == os.getpid() else ""
    return f"process {pid} on {host}{mine}"
