"""Images on their way to a server, which opens them: it has Pillow and the model."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.remote.messages import Ids, NewImage, StatsMessage, UpsertImages
from fastlane_rag.remote.transport import Call
from fastlane_rag.storage.metadata import metadata_from_json
from fastlane_rag.types import IMAGE_KEY

__all__ = ["sending_images"]


def sending_images(
    told: StatsMessage,
    images: Iterable[Any],
    ids: Iterable[str | None] | None,
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    texts: Iterable[str] | None,
) -> tuple[list[str], Call[Ids]]:
    """The id of each image, given or made here, so that the request may be repeated; and the request.

    Raises:
        InvalidInputError: the model takes no images, one cannot be read, they have too many bytes, or lengths differ.
    """
    from fastlane_rag.index.checks import prepare
    from fastlane_rag.index.encoding import check_takes_images
    from fastlane_rag.index.images import image_texts, listed_images

    check_takes_images(told.model, "add_images")
    listed, given = listed_images(images, metadatas)
    words = image_texts(texts, len(listed))
    final, entries = prepare(words, ids, [_without_image(i, one, listed[i]) for i, one in enumerate(given)])
    sent = dict(zip(final, _sent(listed, told.most_body_bytes), strict=True))
    some = [
        NewImage(image=sent[id_], id=id_, text=text, metadata=metadata_from_json(metadata))
        for id_, text, metadata in entries
    ]
    return final, Call("POST", "/documents/images", Ids, UpsertImages(images=some), writes=True)


def _without_image(i: int, metadata: Mapping[str, Any], image: Any) -> dict[str, Any]:
    """Metadata that may name the same image, as what an index gave back does."""
    from fastlane_rag.index.images import check_no_other_image

    check_no_other_image(i, metadata, os.fspath(image) if _is_path(image) else None)
    return {name: value for name, value in metadata.items() if name != IMAGE_KEY}


def _sent(images: list[Any], most: int) -> list[str]:
    """Each image as its request has it. No more is read than a request may have."""
    found: list[str] = []
    size = 0
    for i, image in enumerate(images):
        file = _file(image, f"images[{i}]")
        here = file if isinstance(file, str) else ""
        length = len(here) or _in_base64(file.stat().st_size if isinstance(file, Path) else len(file))
        if length > most:
            raise InvalidInputError(
                f"images[{i}]{_named(image)} is too large: {length} bytes in base64, and the server takes {most} at "
                "once (--max-body); make it smaller"
            )
        size += length
        if size > most:
            raise InvalidInputError(
                f"{len(images)} images are too many at once: the first {i + 1} have {size} bytes in base64, and the "
                f"server takes {most} (--max-body); add {i} at a time"
            )
        found.append(here or base64.b64encode(_read(file, i)).decode())
    return found


def _read(file: Any, i: int) -> bytes:
    try:
        return file.read_bytes() if isinstance(file, Path) else file
    except OSError as error:
        raise InvalidInputError(f"images[{i}] cannot be read: {error}") from error


def _file(image: Any, where: str) -> Path | bytes | str:
    """The file, the bytes of one, or the text that begins with `data:`."""
    if isinstance(image, bytes):
        return image
    if _is_path(image):
        path: str = os.fspath(image)
        if path.startswith("data:"):
            return path
        if path.startswith(("http://", "https://")):
            raise InvalidInputError(f"{where} {path[:60]!r} is an address: load it, and give its bytes or a file")
        if not Path(path).is_file():
            raise InvalidInputError(f"{where}: there is no file {path!r}")
        return Path(path)
    pillow = sys.modules.get("PIL.Image")  # who has an image of Pillow has loaded it
    if pillow is None or not isinstance(image, pillow.Image):
        raise InvalidInputError(f"{where} must be a path, bytes or an image of Pillow, not {type(image).__name__}")
    written = io.BytesIO()
    image.convert("RGB").save(written, format="PNG")
    return written.getvalue()


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike) and isinstance(os.fspath(image), str)


def _in_base64(size: int) -> int:
    return (size + 2) // 3 * 4


def _named(image: Any) -> str:
    return f" {os.fspath(image)!r}" if _is_path(image) else ""
