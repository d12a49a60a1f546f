"""Whether kernels can be compiled here."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache

__all__ = ["has_numba"]


@cache
def has_numba() -> bool:
    """Whether numba is installed and loads; where it is and does not, a warning says so once."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        importlib.import_module("numba")
    except ImportError as error:
        warnings.warn(f"numba does not load ({error}); torch stands in, which is slower", stacklevel=2)
        return False
    return True
