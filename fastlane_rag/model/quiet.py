"""Loading and saving a model without progress bars on stderr, leaving the settings of the libraries as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging

__all__ = ["without_bars"]

_lock = threading.Lock()
_inside = 0  # threads that load; the last one gives the bars back


@contextmanager
def without_bars() -> Iterator[None]:
    """While it lasts, transformers and huggingface_hub show no bars; afterwards they do what they did before.

    Where the environment says whether the hub has bars, that stands.
    """
    global _inside, _before
    if HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    with _lock:
        if not _inside:
            _before = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                shown, hub_hidden = _before
                if shown:
                    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
                if hub_hidden:
                    disable_progress_bars()


_before = True, False
