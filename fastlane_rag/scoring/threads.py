"""The number of CPU threads that score."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["get_threads", "own_threads", "set_threads"]

_threads: int | None = None


class _Own(threading.local):
    count: int | None = None


_own = _Own()


def set_threads(count: int | None) -> None:
    """Set how many CPU threads one call may use; None follows `torch.get_num_threads()`, the default.

    Raises:
        ValueError: count is below 1.
    """
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"the number of threads must be at least 1, but is {count}")
    _threads = count


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Set how many CPU threads a call of this thread may use, during the block: for work in the background."""
    before, _own.count = _own.count, count
    try:
        yield
    finally:
        _own.count = before


def get_threads() -> int:
    """Return how many CPU threads one call may use."""
    return _own.count or _threads or torch.get_num_threads()
