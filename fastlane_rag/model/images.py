"""Images as documents: opened from wherever they come, and encoded by models that take them."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastlane_rag.errors import InvalidInputError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from fastlane_rag.model.encoder import RoutedEncoder

__all__ = ["DATA", "encoded_images", "open_image", "patch_grid", "patch_positions"]

DATA = "data:image/"
"""How an image that is stored as bytes begins: `data:image/png;base64,...`."""

_SHOWN = 60


def open_image(source: Any, what: str = "the image") -> Image:
    """An image in RGB.

    Args:
        source: a path, bytes of a file, a `data:image/...;base64,` text, or an image of Pillow.
        what: it is, for messages.

    Raises:
        InvalidInputError: it is none of these, cannot be read, or is so large that it may be an attack.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"images need Pillow, which is not installed ({error}): {_INSTALL}") from error
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    file = _bytes_of(source, what) if isinstance(source, str | bytes) else source
    if not isinstance(file, bytes | str | os.PathLike):
        raise InvalidInputError(f"{what} must be a path, bytes or an image of Pillow, not {type(source).__name__}")
    if not isinstance(file, bytes) and not Path(file).is_file():
        raise InvalidInputError(f"{what}: there is no file {os.fspath(file)!r}")
    shown = f"of {len(file)} bytes" if isinstance(file, bytes) else repr(os.fspath(file))
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else Path(file)) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInputError(f"{what} {shown} cannot be read as an image: {error}") from error


def _bytes_of(source: str | bytes, what: str) -> str | bytes:
    """The bytes of an image that is given as bytes or as text; a path as it is."""
    if isinstance(source, bytes):
        return source
    if source.startswith(("http://", "https://")):
        raise InvalidInputError(f"{what} {source[:_SHOWN]!r} is an address: load it, and give its bytes or a file")
    if not source.startswith("data:"):
        return source
    head, _, body = source.partition(",")
    if not head.startswith(DATA) or not head.endswith(";base64"):
        raise InvalidInputError(f"{what} {source[:_SHOWN]!r} must begin with {DATA}png;base64, or the like")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise InvalidInputError(f"{what} {source[:_SHOWN]!r} is no base64: {error}") from error


def encoded_images(encoder: RoutedEncoder, images: Sequence[Any], size: int) -> Iterator[dict[str, Any]]:
    """What the encoder gives for each image: `input_ids`, `token_embeddings` and `attention_mask`, and the like.

    Args:
        encoder: takes images.
        images: as `open_image` takes them; they are opened some at a time.
        size: images encoded at once.
    """
    for start in range(0, len(images), size):
        some = [open_image(one, f"image {start + i}") for i, one in enumerate(images[start : start + size])]
        rows: list[dict[str, Any]] = encoder.encode_document(some, batch_size=size, output_value=None)  # type: ignore[assignment]
        for row in rows:
            yield {name: row[name] for name in ("input_ids", "token_embeddings", "attention_mask") if name in row}


def patch_grid(encoder: RoutedEncoder, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches into which the model's processor cuts an image.

    Args:
        encoder: takes images.
        size: width and height of the image, in pixels.

    Raises:
        ModelError: the processor does not say.
    """
    from sentence_transformers.multi_vector_encoder.interpretability import get_n_patches

    try:
        columns, rows = get_n_patches(encoder, size)
    except (NotImplementedError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"cannot tell where in the image a token is: {error}") from error
    return rows, columns


def patch_positions(encoder: RoutedEncoder, ids: torch.Tensor, count: int) -> list[int]:
    """The positions of an image's patches among the tokens of its encoding, in the order of the rows.

    Args:
        encoder: takes images.
        ids: (L,) token ids.
        count: patches that the grid has.

    Raises:
        ModelError: there are more or fewer.
    """
    processor = encoder.processor
    token = getattr(processor, "image_token", None)
    known = getattr(processor, "image_token_id", None)
    wanted = encoder.tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else known
    found: list[int] = [] if wanted is None else torch.nonzero(ids == wanted)[:, 0].tolist()
    if len(found) != count:
        raise ModelError(
            f"cannot tell where in the image a token is: the encoding has {len(found)} patches, the grid of "
            f"{type(processor).__name__} {count}"
        )
    return found


_INSTALL = "pip install 'fastlane-rag[images]'"
