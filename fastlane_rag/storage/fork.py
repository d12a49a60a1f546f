"""Forking while indexes are open: a fork waits until no other thread is inside SQLite.

SQLite has locks for the whole process. A lock that another thread holds at the instant of a fork stays locked in the
child for ever. Therefore every use of a connection passes a gate, and a fork first closes it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["inside_sqlite", "reset_after_fork"]

# A fork waits at most this long for running searches. A search that takes longer, or that waits for the forking thread,
# may leave a lock of SQLite locked in the child.
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.0005


class _Gate:
    """What every use of SQLite passes, and a fork closes.

    It has no lock, because an interrupt right after entering a Condition would leave it locked for all other threads.
    Instead, a thread first records that it is inside, then checks whether the gate is closed. A fork first closes the
    gate, then checks who is inside. So at least one of the two sees the other.
    """

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # uses by thread
        self._closed = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        thread = threading.get_ident()
        mine = self._inside.get(thread, 0)
        try:
            self._inside[thread] = mine + 1
            # Let a thread through that is inside already: the fork is waiting for it.
            while self._closed and not mine:
                self._inside.pop(thread, None)
                time.sleep(_PAUSE_SECONDS)
                self._inside[thread] = 1
            yield
        finally:
            # Restore the count instead of subtracting: an interrupt may have come before it was raised.
            if mine:
                self._inside[thread] = mine
            else:
                self._inside.pop(thread, None)

    def close(self) -> None:
        self._closed = True
        thread, end = threading.get_ident(), time.monotonic() + _PATIENCE_SECONDS
        while set(self._inside) - {thread} and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)

    def open(self) -> None:
        self._closed = False

    def reset(self) -> None:
        """In the child, where only the forking thread exists."""
        thread = threading.get_ident()
        self._inside = {thread: self._inside[thread]} if thread in self._inside else {}
        self._closed = False


_gate = _Gate()
inside_sqlite = _gate.passing


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Register a function to be called in every forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.reset)
