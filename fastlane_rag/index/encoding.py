"""Documents to token rows, some at a time, so that memory stays bounded however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.index.checks import checked_query
from fastlane_rag.index.outside import OutsideModel
from fastlane_rag.index.progress import documents_bar
from fastlane_rag.lengths import check_batch_size, check_texts, chunks
from fastlane_rag.progress import watched
from fastlane_rag.search.engines.choice import check_device, is_cuda
from fastlane_rag.storage.metadata import image_of
from fastlane_rag.storage.tables import Entry
from fastlane_rag.types import IMAGE_KEY

if TYPE_CHECKING:
    from torch import Tensor

    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.query import EncodedQuery

__all__ = [
    "MANY",
    "budget_of",
    "check_takes_images",
    "encoded_documents",
    "encoded_entries",
    "encoded_queries",
    "model_device",
    "open_model",
]

# Additions of this many texts show a progress bar on a terminal.
MANY = 1000
# Images encoded at once; each has a thousand tokens.
_IMAGES = 4
_HALF_MAX = float(np.finfo(np.float16).max)


def open_model(
    model: Any,
    document_budget: float | None = None,
    max_document_tokens: int | None = None,
    *,
    truncate_dim: int | None = None,
    device: str | None = None,
    dim: int | None = None,
) -> FastLaneModel:
    """Open what a user gave as `model`. What is loaded by name is shared by all indexes and rerankers of the process.

    Args:
        model: a name or folder; None for the bundled model; or an object that encodes, which stays as it is.
        document_budget: for what is loaded here.
        max_document_tokens: for every model, see `FastLaneModel.bounded`; None leaves the model's own.
        truncate_dim: for every model, see `FastLaneModel.truncated`; None leaves the model's own.
        device: for what is loaded here.
        dim: of embeddings that are made elsewhere, by a model of which `model` is the name.

    Raises:
        InvalidInputError: an object that encodes itself cannot follow an option.
        DeviceError: there is no such CUDA device, or it cannot be used.
        ModelError: the model cannot be opened.
    """
    if dim is not None and (model is None or isinstance(model, str)):
        model = OutsideModel(dim) if model is None else OutsideModel(dim, model)
    if hasattr(model, "encode_documents"):
        _refuse_device(model, device)
        encoder: Any = model if hasattr(model, "encode_routed") else _wrapped(model)
        opened: FastLaneModel = encoder
        asked = (("max_document_tokens", "bounded", max_document_tokens), ("truncate_dim", "truncated", truncate_dim))
        for option, method, value in asked:
            if value is not None and not hasattr(encoder, method):
                raise InvalidInputError(
                    f"{option}={value!r}: the {type(model).__name__} that was given as model has no method "
                    f"`{method}`, so it cannot be told; set it where the model is made"
                )
            opened = opened if value is None else getattr(opened, method)(value)
    else:
        from fastlane_rag.model.shared import shared_model

        check_device(device)
        opened = shared_model(
            model,
            device=device,
            document_budget=document_budget,
            max_document_tokens=max_document_tokens,
            truncate_dim=truncate_dim,
        )
    if dim not in (None, opened.dim):
        raise InvalidInputError(f"dim={dim}, but the embeddings of {opened.name!r} have {opened.dim} dimensions")
    return opened


def _wrapped(model: Any) -> OutsideModel:
    """An object that encodes without routing, as an index takes it."""
    lacks = [name for name in ("encode_queries", "dim") if not hasattr(model, name)]
    if lacks:
        raise InvalidInputError(
            f"the {type(model).__name__} that was given as model lacks {' and '.join(lacks)}: an object that encodes "
            "has dim, name, encode_documents(texts) and encode_queries(texts)"
        )
    return OutsideModel(model.dim, getattr(model, "name", type(model).__name__), model)


def _refuse_device(model: Any, device: str | None) -> None:
    if device is not None:
        raise InvalidInputError(
            f"device={device!r}: the {type(model).__name__} that was given as model is loaded already; choose the "
            "device where it is made, or give its folder or name"
        )


def model_device(model: Any, device: str | None) -> str | None:
    """What `device` of an index says of its model: one that is an object stays where it is; documents go to CUDA."""
    return None if hasattr(model, "encode_documents") and is_cuda(device) else device


def budget_of(model: Any) -> float | None:
    """Tokens that a model keeps of a document, None for all; also of objects that only encode."""
    budget = getattr(model, "document_budget", None)
    return None if budget is None else float(budget)


def encoded_entries(
    model: FastLaneModel, entries: Sequence[Entry], batch_size: int | None, show_progress: bool | None
) -> Iterator[NDArray[np.float32]]:
    """Yield the (L, dim) float32 token rows of each document, a text or an image.

    Raises:
        InvalidInputError: a document is an image, and the model takes none, or the image cannot be read.
        ModelError: as `encoded_documents`.
    """
    images = [image_of(metadata) for _, _, metadata in entries]
    if any(image is not None for image in images):
        which = next(i for i, image in enumerate(images) if image is not None)
        check_takes_images(model, f"the document {entries[which][0]!r} is an image ({IMAGE_KEY!r} in its metadata)")
    start = 0
    for is_image, group in groupby(images, lambda image: image is not None):
        some = list(group)
        texts = [text for _, text, _ in entries[start : start + len(some)]]
        if is_image:
            yield from _encoded_images(model, some, [one[0] for one in entries[start : start + len(some)]], batch_size)
        else:
            yield from encoded_documents(model, texts, batch_size, show_progress)
        start += len(some)


def check_takes_images(model: Any, what: str) -> None:
    """Refuse an image where the model takes none.

    Raises:
        InvalidInputError: it takes none.
    """
    if not getattr(model, "takes_images", False):
        raise InvalidInputError(
            f"{what}: the model {model.name!r} takes no images; make the index with one that does, such as a ColPali "
            "checkpoint"
        )


def _encoded_images(
    model: FastLaneModel, images: Sequence[str | None], ids: Sequence[str], batch_size: int | None
) -> Iterator[NDArray[np.float32]]:
    from fastlane_rag.model.images import open_image

    size = check_batch_size(batch_size) or _IMAGES
    for start in range(0, len(images), size):
        # Opened here, so that messages name the document.
        opened = [
            open_image(image, f"the image of document {id_!r}")
            for image, id_ in zip(images[start : start + size], ids[start : start + size], strict=True)
        ]
        for i, tokens in enumerate(model.encode_images(opened, batch_size=size)):
            yield _checked(tokens, model, start + i)


def encoded_queries(
    model: Callable[[], FastLaneModel], queries: Sequence[str] | Sequence[EncodedQuery], dim: int
) -> list[EncodedQuery]:
    """Queries that are texts encoded, and all on the CPU, where the index is.

    Args:
        model: gives the model, where it is needed.
        queries: all texts, or all encoded.
        dim: of the index.

    Raises:
        InvalidInputError: one is no text, has other dimensions than the index, or values that are not finite.
        ModelError: the model gave more or fewer than there are.
    """
    if not all(hasattr(query, "embeddings") for query in queries):
        texts = check_texts(cast("Sequence[str]", queries), "queries")
        encoder = model()
        queries = encoder.encode_routed(texts)
        if len(queries) != len(texts):
            raise ModelError(f"{encoder.name} gave {len(queries)} embeddings for {len(texts)} queries")
    return [checked_query(query, dim) for query in cast("Sequence[EncodedQuery]", queries)]


def encoded_documents(
    model: FastLaneModel, texts: Sequence[str], batch_size: int | None, show_progress: bool | None
) -> Iterator[NDArray[np.float32]]:
    """Yield the (L, dim) float32 token rows of each text.

    Raises:
        ModelError: the model gave rows that cannot be stored: none at all, not finite, or of another size.
    """
    visible = show_progress if show_progress is not None else len(texts) >= MANY and watched()
    with documents_bar("Encoding", len(texts), visible=visible) as done:
        position = 0
        for chunk in chunks(texts):
            encoded = model.encode_documents(chunk, batch_size=batch_size, show_progress=False)
            if len(encoded) != len(chunk):
                raise ModelError(f"{model.name} gave {len(encoded)} embeddings for {len(chunk)} texts")
            for tokens in encoded:
                yield _checked(tokens, model, position)
                position += 1
            done(len(chunk))


def _checked(tokens: Tensor | NDArray[np.floating], model: FastLaneModel, position: int) -> NDArray[np.float32]:
    array = tokens if isinstance(tokens, np.ndarray) else tokens.detach().float().cpu().numpy()
    rows = array.astype(np.float32, copy=False)
    if rows.ndim != 2 or rows.shape[1] != model.dim or len(rows) == 0:
        raise ModelError(f"{model.name} gave an embedding of shape {rows.shape} for text {position}")
    if not -_HALF_MAX <= rows.min() <= rows.max() <= _HALF_MAX:  # NaN fails every comparison
        raise ModelError(
            f"{model.name} gave an embedding with NaN, infinite or huge values for text {position}; nothing was stored"
        )
    return rows
