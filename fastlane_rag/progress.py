"""How far an encoding has come, told to whoever shows it. A model tells without knowing who listens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["encoded", "listening", "watched"]

_listener: ContextVar[Callable[[int], None] | None] = ContextVar("_listener", default=None)


@contextmanager
def listening(tell: Callable[[int], None]) -> Iterator[None]:
    """While it lasts, `tell` is called with the number of texts encoded since its last call."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


def encoded(texts: int) -> None:
    """Tell that so many more texts are encoded."""
    tell = _listener.get()
    if tell is not None:
        tell(texts)


def watched() -> bool:
    """Whether standard error is a terminal. Programs without a console, or that closed it, have none."""
    return sys.stderr is not None and sys.stderr.isatty()
