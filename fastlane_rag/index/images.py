"""Documents that are images: how they are given, and how their metadata keeps them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.encoding import check_takes_images
from fastlane_rag.lengths import check_list, check_texts, kind
from fastlane_rag.storage.metadata import image_of
from fastlane_rag.types import IMAGE_KEY

if TYPE_CHECKING:
    from fastlane_rag.index.protocol import AnyIndex

__all__ = [
    "AddsImages",
    "check_no_other_image",
    "check_same_images",
    "check_sent_image",
    "image_metadatas",
    "image_texts",
    "listed_images",
    "sent_image",
]

_NO_LIST = (str, bytes, os.PathLike, Mapping)


class AddsImages:
    """An index that adds images as documents, by its model and its `add`."""

    def add_images(
        self: AnyIndex,
        images: Iterable[Any],
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        texts: Iterable[str] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Add documents that are images, and replace those whose id is stored already. An error stores none of them.

        An image is kept in its document's metadata, under "fastlane_image": a path as it was given, bytes and images of
        Pillow as a `data:` text. Whatever adds a document with that key adds an image: `add`, `ingest` and both
        frameworks' adapters. A document whose image and text are stored under its id already is not encoded again,
        even if the file has changed since.

        Args:
            images: paths, bytes of image files, or images of Pillow.
            ids: as in `add`.
            metadatas: as in `add`.
            texts: what is stored beside each image, for hits and for searches by words, such as what a page says; None
                stores empty texts. The model does not see them.
            batch_size: images encoded at once; None for 4.

        Returns:
            The id of each image, in input order.

        Raises:
            InvalidInputError: the model takes no images, an image cannot be read, or lengths differ.
            MissingExtraError: Pillow is not installed.
            IndexLockedError: another writer holds the index.
            IndexReadOnlyError: the index was opened for reading.
        """
        check_takes_images(self.model, "add_images")
        given = image_metadatas(images, metadatas)
        return self.add(image_texts(texts, len(given)), ids, given, batch_size=batch_size, show_progress=False)


def image_metadatas(
    images: Iterable[Any], metadatas: Iterable[Mapping[str, Any] | None] | None
) -> list[dict[str, Any]]:
    """The metadata of documents that are images: what was given, and the image under `IMAGE_KEY`.

    A path stays a path, as it was given. Bytes and images of Pillow become a `data:` text, those of Pillow as PNG.

    Raises:
        InvalidInputError: lengths differ, an item is no image, or metadata has the key already.
    """
    listed, given = listed_images(images, metadatas)
    sources = [_source(image, f"images[{i}]") for i, image in enumerate(listed)]
    for i, one in enumerate(given):
        check_no_other_image(i, one, sources[i])
    return [{**one, IMAGE_KEY: source} for one, source in zip(given, sources, strict=True)]


def listed_images(
    images: Iterable[Any], metadatas: Iterable[Mapping[str, Any] | None] | None
) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """The images, and one dict an image.

    Raises:
        InvalidInputError: a single image instead of a list, lengths differ, or metadata is no dict.
    """
    if isinstance(images, _NO_LIST) or not isinstance(images, Iterable):
        raise InvalidInputError(f"images must be a list, not {kind(images)}; put a single image into [ ]")
    listed = list(images)
    given: list[Any] = [None] * len(listed) if metadatas is None else check_list("metadatas", metadatas)
    if len(given) != len(listed):
        raise InvalidInputError(f"{len(listed)} images but {len(given)} metadatas")
    for i, one in enumerate(given):
        if one is not None and not isinstance(one, Mapping):
            raise InvalidInputError(f"metadatas[{i}] must be a dict or None, not {kind(one)}")
    return listed, [one or {} for one in given]


def image_texts(texts: Iterable[str] | None, count: int) -> list[str]:
    """What is stored beside so many images: empty texts for None.

    Raises:
        InvalidInputError: lengths differ, or something is no text.
    """
    words = [""] * count if texts is None else check_texts(texts)
    if len(words) != count:
        raise InvalidInputError(f"{count} images but {len(words)} texts")
    return words


def check_no_other_image(i: int, metadata: Mapping[str, Any], source: str | None) -> None:
    """Refuse metadata that name another image than the one they are given with.

    Args:
        i: position of both, for the message.
        metadata: of the image.
        source: what metadata may call the image; None for an image without a name.

    Raises:
        InvalidInputError: they do.
    """
    if metadata.get(IMAGE_KEY, source) != source:
        raise InvalidInputError(
            f"metadatas[{i}] has the key {IMAGE_KEY!r} for another image than images[{i}]; leave the key out"
        )


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


def sent_image(image: str, where: str) -> bytes | str:
    """An image that came in base64, as bytes; a `data:` text as it is.

    Raises:
        InvalidInputError: it is neither, such as a path, which would be one of this machine.
    """
    if image.startswith("data:"):
        return image
    try:
        return base64.b64decode(image, validate=True)
    except ValueError as error:
        raise InvalidInputError(
            f"{where} is {kind(image)}, and must be the base64 of an image file, or data:image/png;base64,...: {error}"
        ) from error


def check_sent_image(model: Any, image: Any, where: str, most_pixels: int) -> None:
    """Refuse what another machine sent as an image and is a path, which would be one of this machine, or too large.

    Args:
        model: of the index.
        image: bytes or a text; what else stands under `IMAGE_KEY` is no image, and passed over.
        where: it is, for messages.
        most_pixels: it may have; a small file may hold very many.

    Raises:
        InvalidInputError: it is refused, or the model takes no images.
        MissingExtraError: Pillow is not installed.
    """
    if not isinstance(image, str | bytes):
        return
    if isinstance(image, str) and not image.startswith("data:"):
        raise InvalidInputError(
            f"{where} is the image {kind(image)}, a path on the server: send the image itself, as "
            "data:image/png;base64,..."
        )
    check_takes_images(model, where)
    from fastlane_rag.model.images import check_pixels

    check_pixels(image, most_pixels, where)
