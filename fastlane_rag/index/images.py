"""Documents that are images: how they are given, and how their metadata keeps them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.checks import check_list
from fastlane_rag.storage.metadata import image_of, kind
from fastlane_rag.types import IMAGE_KEY

__all__ = ["check_no_paths", "check_same_images", "image_metadatas"]

_NO_LIST = (str, bytes, os.PathLike, Mapping)


def image_metadatas(
    images: Iterable[Any], metadatas: Iterable[Mapping[str, Any] | None] | None
) -> list[dict[str, Any]]:
    """The metadata of documents that are images: what was given, and the image under `IMAGE_KEY`.

    A path stays a path, as it was given. Bytes and images of Pillow become a `data:` text, those of Pillow as PNG.

    Raises:
        InvalidInputError: lengths differ, an item is no image, or metadata has the key already.
    """
    if isinstance(images, _NO_LIST) or not isinstance(images, Iterable):
        raise InvalidInputError(f"images must be a list, not {kind(images)}; put a single image into [ ]")
    sources = [_source(image, f"images[{i}]") for i, image in enumerate(images)]
    given: list[Any] = [None] * len(sources) if metadatas is None else check_list("metadatas", metadatas)
    if len(given) != len(sources):
        raise InvalidInputError(f"{len(sources)} images but {len(given)} metadatas")
    for i, one in enumerate(given):
        if one is not None and not isinstance(one, Mapping):
            raise InvalidInputError(f"metadatas[{i}] must be a dict or None, not {kind(one)}")
        if one and one.get(IMAGE_KEY, sources[i]) != sources[i]:
            raise InvalidInputError(
                f"metadatas[{i}] has the key {IMAGE_KEY!r} for another image than images[{i}]; leave the key out"
            )
    return [{**(one or {}), IMAGE_KEY: source} for one, source in zip(given, sources, strict=True)]


def _source(image: Any, where: str) -> str:
    from fastlane_rag.model.images import open_image

    if isinstance(image, str | os.PathLike):
        source = os.fspath(image)
        if isinstance(source, str):
            if not source.startswith("data:") and not Path(source).is_file():
                open_image(source, where)  # says what is wrong with it
            return source
    if isinstance(image, bytes):
        open_image(image, where)
        return f"data:image/{_format(image)};base64,{base64.b64encode(image).decode()}"
    written = io.BytesIO()
    open_image(image, where).save(written, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _format(image: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        return (opened.format or "png").lower()


def check_same_images(stored: Mapping[str, str | None], metadata: Mapping[str, str]) -> None:
    """Refuse new metadata, as JSON, that would make another image of a stored document, or a text.

    Raises:
        InvalidInputError: some would.
    """
    for id_, image in stored.items():
        if image_of(metadata[id_]) != image:
            raise InvalidInputError(
                f"the new metadata of {id_!r} has {IMAGE_KEY} = {kind(image_of(metadata[id_]))}, the stored document "
                f"{kind(image)}: an image belongs to what is encoded, so keep the key as it is, or add the document "
                "again"
            )


def check_no_paths(metadatas: Iterable[Any]) -> None:
    """Refuse images by path, where they come from another machine: it would read files of this one.

    Raises:
        InvalidInputError: there is one.
    """
    for i, metadata in enumerate(metadatas):
        image = metadata.get(IMAGE_KEY) if isinstance(metadata, Mapping) else None
        if isinstance(image, str) and not image.startswith("data:"):
            raise InvalidInputError(
                f"document {i} is the image {kind(image)}, a path on the server: send the image itself, as "
                "data:image/png;base64,..."
            )
