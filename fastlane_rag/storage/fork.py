"""Forking with indexes open: no thread may be inside SQLite at that moment.

SQLite has locks of its own for the whole process. One that another thread holds at the instant of a fork
stays locked in the child for ever. So every use of a connection passes a gate, and a fork first closes it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["inside_sqlite", "reset_after_fork"]

# A fork waits this long for running searches; one that takes longer (or waits for the forking thread) is
# left to its luck.
_PATIENCE_SECONDS = 10.0


class _Gate:
    def __init__(self) -> None:
        self._change = threading.Condition()
        self._mine = threading.local()
        self._inside = 0
        self._closed = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        mine = getattr(self._mine, "count", 0)
        with self._change:
            # A thread that is inside already must be let through, or the fork would wait for it in vain.
            self._change.wait_for(lambda: mine or not self._closed)
            self._inside += 1
        self._mine.count = mine + 1
        try:
            yield
        finally:
            self._mine.count = mine
            with self._change:
                self._inside -= 1
                self._change.notify_all()

    def close(self) -> None:
        mine = getattr(self._mine, "count", 0)
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: self._inside <= mine, _PATIENCE_SECONDS)

    def open(self) -> None:
        with self._change:
            self._closed = False
            self._change.notify_all()

    def reset(self) -> None:
        """In the child, where only the forking thread lives on."""
        self._change = threading.Condition()
        self._inside = getattr(self._mine, "count", 0)
        self._closed = False


_gate = _Gate()
inside_sqlite = _gate.passing


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Have a function called in every forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.reset)
