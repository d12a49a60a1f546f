"""Locking an open file or directory, on each platform."""

from __future__ import annotations

import os
import sys

__all__ = ["try_lock", "unlock"]

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    # A locked byte on Windows blocks reading. Lock a byte far behind the text, so that others can read who holds it.
    _LOCKED_BYTE = 1 << 30

    def try_lock(fd: int) -> bool:
        """Lock a file; false where somebody has locked it."""
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Free a file that this handle has locked."""
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Lock a file or directory; false where somebody has locked it."""
        # flock, not lockf: flock also excludes a second handle of the same process.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Free what this handle has locked."""
        fcntl.flock(fd, fcntl.LOCK_UN)
