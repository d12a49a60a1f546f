"""The number of CPU threads that score."""

from __future__ import annotations

import torch

__all__ = ["get_threads", "set_threads"]

_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many CPU threads one call may use; None follows `torch.get_num_threads()`, the default.

    Raises:
        ValueError: count is below 1.
    """
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"the number of threads must be at least 1, but is {count}")
    _threads = count


def get_threads() -> int:
    """Return how many CPU threads one call may use."""
    return _threads or torch.get_num_threads()
