"""The index that an adapter's store is made over."""

from __future__ import annotations

import os
from typing import Any, Unpack

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.facade import FastLaneIndex
from fastlane_rag.index.options import IndexKeywords
from fastlane_rag.index.protocol import AnyIndex, given_index

__all__ = ["index_of"]


def index_of(index: Any, path: str | os.PathLike[str] | None, **options: Unpack[IndexKeywords]) -> AnyIndex:
    """The index that was given, or the one at a path, opened or created with options.

    Raises:
        ModelMismatchError: the index at `path` was made with another model.
        InvalidInputError: it was made with another option; or an index is given and a path or an option as well; or
            `index` is no index. The message says what to give.
    """
    if index is None:
        return FastLaneIndex.open_or_create(path, **options)
    if path is not None or options:
        raise InvalidInputError("an index brings its own path, model and options: give the index or these, not both")
    return given_index(index)
