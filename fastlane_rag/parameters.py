"""Trained parameters as bytes: arrays in a safetensors file that says what it holds, and in which version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fastlane_rag.errors import IndexFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]

T = TypeVar("T")


def packed(arrays: Mapping[str, NDArray[Any]], form: tuple[str, str]) -> bytes:
    """The arrays as a safetensors file.

    Args:
        arrays: by name.
        form: the kind of parameters, and the version of their form.
    """
    from safetensors.numpy import save

    return save(dict(arrays), metadata=dict([form]))


def unpacked(data: bytes, form: tuple[str, str], what: str, make: Callable[[dict[str, NDArray[Any]]], T]) -> T:
    """What `make` makes of the arrays that `packed` wrote.

    Args:
        data: the file.
        form: as it was packed with.
        what: the parameters are, for messages.
        make: takes the arrays by name; its LookupError, ValueError and TypeError mean that they are damaged.

    Raises:
        IndexFormatError: the data are damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        length = int.from_bytes(data[:8], "little")
        kind, version = form
        written = json.loads(data[8 : 8 + length])["__metadata__"][kind]
        if written != version:
            raise IndexFormatError(f"{what} have version {written}; this fastlane-rag reads {version}")
        return make(load(data))
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        raise IndexFormatError(f"{what} are damaged: {error!r}") from error
