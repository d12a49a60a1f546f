"""Images as documents: opened from wherever they come, and encoded by models that take them."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from fastlane_rag.errors import InvalidInputError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from fastlane_rag.model.encoder import RoutedEncoder

__all__ = ["DATA", "check_pixels", "encoded_images", "open_image", "patch_grid", "patch_positions"]

DATA = "data:image/"
"""How an image that is stored as bytes begins: `data:image/png;base64,...`."""

_SHOWN = 60
_COMMON = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")


def open_image(source: Any, what: str = "the image") -> Image:
    """An image in RGB.

    Args:
        source: a path, bytes of a file, a `data:image/...;base64,` text, or an image of Pillow.
        what: it is, for messages.

    Raises:
        InvalidInputError: it is none of these, cannot be read, or is so large that it may be an attack.
        MissingExtraError: Pillow is not installed.
    """
    if isinstance(source, _pillow().Image):
        return cast("Image", source).convert("RGB")
    with _opened(source, what) as opened:
        return opened.convert("RGB")


def check_pixels(source: str | bytes, most: int, what: str) -> None:
    """Refuse an image of too many pixels, or of a rare format, by its first bytes: it comes from a stranger.

    Args:
        source: bytes of a file, or a `data:image/...;base64,` text.
        most: pixels.
        what: it is, for messages.

    Raises:
        InvalidInputError: it has more, or is no image of a common format.
        MissingExtraError: Pillow is not installed.
    """
    with _opened(source, what, _COMMON) as opened:
        width, height = opened.size
    if width * height > most:
        raise InvalidInputError(f"{what} has {width} x {height} pixels, more than {most}; make it smaller")


@contextmanager
def _opened(source: Any, what: str, formats: Sequence[str] | None = None) -> Iterator[Image]:
    """An image whose size is known, and whose pixels are read within."""
    pillow = _pillow()
    file = _bytes_of(source, what) if isinstance(source, str | bytes) else source
    if not isinstance(file, bytes | str | os.PathLike):
        raise InvalidInputError(f"{what} must be a path, bytes or an image of Pillow, not {type(source).__name__}")
    if not isinstance(file, bytes) and not Path(file).is_file():
        raise InvalidInputError(f"{what}: there is no file {os.fspath(file)!r}")
    shown = f"of {len(file)} bytes" if isinstance(file, bytes) else repr(os.fspath(file))
    try:
        with pillow.open(io.BytesIO(file) if isinstance(file, bytes) else Path(file), formats=formats) as opened:
            yield opened
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InvalidInputError(f"{what} {shown} cannot be read as an image: {error}") from error


def _pillow() -> Any:
    """Pillow's module of images."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"images need Pillow, which is not installed ({error}): {_INSTALL}") from error
    return Image


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
