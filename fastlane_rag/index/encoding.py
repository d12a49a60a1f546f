"""Documents to token rows, some at a time, so that memory stays bounded however many there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import ModelError
from fastlane_rag.index.progress import documents_bar

if TYPE_CHECKING:
    from torch import Tensor

    from fastlane_rag.model import FastLaneModel

__all__ = ["MANY", "encoded_documents", "open_model"]

# Enough that texts of like length fill whole batches, few enough that their rows fit in memory with ease.
_CHUNK = 512
# Additions of this many texts show a progress bar on a terminal.
MANY = 1000
_HALF_MAX = float(np.finfo(np.float16).max)


def open_model(model: Any, document_budget: float | None = None) -> FastLaneModel:
    """Open what a user gave as `model`. An object that encodes documents and queries itself is returned unchanged."""
    if hasattr(model, "encode_documents") and hasattr(model, "encode_routed"):
        encoder: FastLaneModel = model
        return encoder
    from fastlane_rag.model import FastLaneModel

    return FastLaneModel.from_pretrained(model, document_budget=document_budget)


def encoded_documents(
    model: FastLaneModel, texts: Sequence[str], batch_size: int | None, show_progress: bool | None
) -> Iterator[NDArray[np.float32]]:
    """Yield the (L, dim) float32 token rows of each text.

    Raises:
        ModelError: the model gave rows that cannot be stored: none at all, not finite, or of another size.
    """
    visible = show_progress if show_progress is not None else len(texts) >= MANY and sys.stderr.isatty()
    with documents_bar("Encoding", len(texts), visible=visible) as done:
        for first in range(0, len(texts), _CHUNK):
            chunk = texts[first : first + _CHUNK]
            encoded = model.encode_documents(chunk, batch_size=batch_size, show_progress=False)
            if len(encoded) != len(chunk):
                raise ModelError(f"{model.name} gave {len(encoded)} embeddings for {len(chunk)} texts")
            for i, tokens in enumerate(encoded):
                yield _checked(tokens, model, first + i)
            done(len(chunk))


def _checked(tokens: Tensor | NDArray[np.floating], model: FastLaneModel, position: int) -> NDArray[np.float32]:
    array = tokens if isinstance(tokens, np.ndarray) else tokens.detach().float().cpu().numpy()
    rows = array.astype(np.float32, copy=False)
    if rows.ndim != 2 or rows.shape[1] != model.dim or len(rows) == 0:
        raise ModelError(f"{model.name} gave an embedding of shape {rows.shape} for text {position}")
    if not float(np.abs(rows).max()) <= _HALF_MAX:  # NaN fails every comparison
        raise ModelError(
            f"{model.name} gave an embedding with NaN, infinite or huge values for text {position}; nothing was stored"
        )
    return rows
