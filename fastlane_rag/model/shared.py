"""Models that indexes and rerankers load by name: one a process for each name and device, shared by all of them.

The bundled model stays loaded. Another one is freed when nothing uses it any more. `FastLaneModel.from_pretrained`
always gives a model of one's own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder

from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.lengths import plain
from fastlane_rag.model.fastlane import FastLaneModel
from fastlane_rag.model.folder import is_folder

__all__ = ["shared_model"]


class _Place:
    """Where one model is kept while somebody uses it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # threads that want the same model wait for its loading
        self._model: Callable[[], FastLaneModel | None] = lambda: None

    def model(self, load: Callable[[], FastLaneModel], *, keep: bool) -> FastLaneModel:
        with self.lock:
            found = self._model()
            if found is None:
                loaded = found = load()
                self._model = (lambda: loaded) if keep else weakref.ref(loaded)
            return found


# No model has so many; a home directory has.
_MOST_FILES = 10_000

_places: dict[tuple[Any, ...], _Place] = {}


def shared_model(
    model: Any = None,
    *,
    device: str | None = None,
    document_budget: float | None = None,
    max_document_tokens: int | None = None,
    truncate_dim: int | None = None,
) -> FastLaneModel:
    """The process's model of this name, loaded on first use; a model that is loaded already stays as it is.

    Args:
        model: as `FastLaneModel.from_pretrained` takes it.
        device: where to run; None takes CUDA or MPS when there is one, else the CPU.
        document_budget: tokens to keep of a document; models that differ in it are not shared.
        max_document_tokens: tokens to encode of a document, see `FastLaneModel.bounded`; the weights are shared.
        truncate_dim: dimensions to keep of an embedding, see `FastLaneModel.truncated`; the weights are shared.

    Raises:
        ModelError: the model cannot be opened.
        InvalidInputError: an option is given with a model that is loaded already, or is not what it must be.
    """
    if not (model is None or isinstance(model, str | os.PathLike | FastLaneModel | MultiVectorEncoder)):
        raise InvalidInputError(
            f"model must be a folder, a name, None or an object that encodes, not {type(model).__name__}"
        )
    options: dict[str, Any] = {"device": device, "document_budget": document_budget}
    if isinstance(model, FastLaneModel | MultiVectorEncoder):
        return FastLaneModel.from_pretrained(
            model, **options, max_document_tokens=max_document_tokens, truncate_dim=truncate_dim
        )
    name = None if model is None else plain(os.fsdecode(model))
    key = (_identity(name), _device(device), document_budget)
    place = _places.setdefault(key, _Place())
    found = place.model(lambda: FastLaneModel.from_pretrained(name, **options), keep=model is None)
    return found._narrowed(max_document_tokens, truncate_dim)


def _identity(model: str | None) -> object:
    """What tells models apart: of a folder its files as well, which a training may have written anew.

    Raises:
        ModelError: the folder cannot be read, or holds more files than any model has.
    """
    if model is None or not is_folder(Path(model)):
        return model
    try:
        files = sorted(islice((file for file in Path(model).rglob("*") if file.is_file()), _MOST_FILES + 1))
        seen = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    except OSError as error:
        raise ModelError(f"cannot open the model {model!r}: {error.filename}: {error.strerror}") from error
    if len(files) > _MOST_FILES:
        raise ModelError(f"cannot open the model {model!r}: the folder holds more than {_MOST_FILES} files")
    return os.path.realpath(model), seen


def _device(device: str | None) -> str:
    from sentence_transformers.util import get_device_name

    return str(device or get_device_name())


def _after_fork() -> None:
    """In a forked child: a lock that another thread held would stay locked."""
    for place in list(_places.values()):
        place.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
