"""How a long step of upkeep goes on beside other work: when it stops, and how it waits for other writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastlane_rag.errors import IndexLockedError
from fastlane_rag.storage.transactions import Storage

__all__ = ["Pace", "Stopped"]

_PAUSE_SECONDS = 0.05


class Stopped(Exception):
    """A step ends early. Nothing of it is stored."""


class Pace:
    """Asked between the pieces of a step.

    Args:
        stop: an event that ends the step. A step with one waits for other writers as long as it takes; a step without
            one, which a caller waits for, waits as long as any write of the index.

    Attributes:
        waiting_since: when the step began to wait for others; None while it works.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop
        self.waiting_since: float | None = None

    def __call__(self) -> None:
        """Go on.

        Raises:
            Stopped: the step is to end.
        """
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The step waits for others during the block."""
        self.waiting_since = time.monotonic()
        try:
            yield
        finally:
            self.waiting_since = None

    @contextmanager
    def turn(self, storage: Storage) -> Iterator[None]:
        """Be the writer during the block.

        Raises:
            Stopped: the step is to end.
            IndexLockedError: others wrote for as long as a write waits; only without a stop event.
        """
        with ExitStack() as turn:
            with self.waiting():
                while not self._entered(turn, storage):
                    self()
                    time.sleep(_PAUSE_SECONDS)
            yield

    def _entered(self, turn: ExitStack, storage: Storage) -> bool:
        try:
            turn.enter_context(storage.turn())
        except IndexLockedError:
            if self._stop is None:
                raise
            return False
        return True
