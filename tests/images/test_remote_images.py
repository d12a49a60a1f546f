"""Images that go to a server: read here, opened there, refused where they cannot be taken."""

import base64
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fastlane_rag import FastLaneIndex, FastLaneModel, RemoteIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.settings import ServeSettings
from fastlane_rag.types import IMAGE_KEY

QUERY = "what is the capital of france ?"


def png(size: tuple[int, int], noise: bool = False) -> bytes:
    """A picture; of noise it takes about 3 bytes a pixel."""
    made = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])) if noise else Image.new("RGB", size, "navy")
    written = BytesIO()
    made.save(written, format="PNG")
    return written.getvalue()


def test_images_are_added_as_to_an_index_here(
    remote: RemoteIndex, served: FastLaneIndex, page_model: FastLaneModel, pages: list[Path]
) -> None:
    """Files, bytes, `data:` texts and images of Pillow; what is found is what an index here finds."""
    data = f"data:image/png;base64,{base64.b64encode(png((40, 30))).decode()}"
    images = [str(pages[0]), pages[1].read_bytes(), Image.open(pages[2]), data, pages[0]]
    ids, metadatas = ["path", "bytes", "pillow", "data", None], [{"page": i} for i in range(5)]
    texts = ["red", "", "black", "", ""]
    given = remote.add_images(images, ids, metadatas, texts=texts)
    assert given[:4] == ids[:4]
    assert given == served.ids()
    stored = {one.id: one for one in remote.find()}
    assert base64.b64decode(stored["bytes"].metadata[IMAGE_KEY].partition(",")[2]) == images[1]
    assert stored["bytes"].metadata[IMAGE_KEY].startswith("data:image/jpeg;base64,")
    assert base64.b64decode(stored["path"].metadata[IMAGE_KEY].partition(",")[2]) == pages[0].read_bytes()
    assert stored["data"].metadata == {"page": 3, IMAGE_KEY: data}
    assert (stored["path"].text, stored["path"].metadata["page"]) == ("red", 0)
    with FastLaneIndex.create(model=page_model) as index:
        index.add_images(images, given, metadatas, texts=texts)
        assert [(hit.id, hit.score) for hit in remote.search(QUERY)] == [
            (hit.id, hit.score) for hit in index.search(QUERY)
        ]
    assert any(token.patch for token in remote.explain(QUERY, "path").tokens)
    assert remote.model.takes_images
    assert remote.add_images([]) == []


def test_of_an_id_given_twice_the_last_image_counts(remote: RemoteIndex, pages: list[Path]) -> None:
    assert remote.add_images(pages[::2], ["one", "one"]) == ["one", "one"]
    (stored,) = remote.find()
    assert base64.b64decode(stored.metadata[IMAGE_KEY].partition(",")[2]) == pages[2].read_bytes()
    assert remote.add_images(pages[:1], ["one"], [{IMAGE_KEY: str(pages[0])}]) == ["one"]
    with pytest.raises(InvalidInputError, match="for another image than images"):
        remote.add_images(pages[:1], ["one"], [{IMAGE_KEY: "other.png"}])


async def test_an_event_loop_adds_images(remote: RemoteIndex, pages: list[Path]) -> None:
    assert await remote.aadd_images(pages, ["a", "b", "c"], texts=["red", "", ""]) == ["a", "b", "c"]
    assert await remote.aadd_images([]) == []
    assert [one.text for one in await remote.aget(["a", "c"])] == ["red", ""]
    await remote.aclose()


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: f / "nothing.png", "images\\[1\\]: there is no file"),
    "folder": (lambda f: f, "images\\[1\\]: there is no file"),
    "text": (lambda f: b"no image", "images\\[1\\] of 8 bytes cannot be read as an image"),
    "cut": (lambda f: (f / "three.png").read_bytes()[:70], "images\\[1\\] of 70 bytes cannot be read as an image"),
    "postscript": (lambda f: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
    "address": (lambda f: "https://example.com/a.png", "images\\[1\\] .* is an address"),
    "data": (lambda f: "data:text/plain;base64,AAAA", "must begin with data:image"),
    "base64": (lambda f: "data:image/png;base64,!!", "is no base64"),
    "number": (lambda f: 7, "images\\[1\\] must be a path, bytes or an image of Pillow, not int"),
    "pixels": (lambda f: png((200, 151)), "images\\[1\\] has 200 x 151 pixels, more than 30000"),
    "large": (lambda f: png((90, 90), noise=True), "images\\[1\\] is too large: 32.* bytes in base64, .* takes 20000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused_is_named_and_nothing_is_stored(remote: RemoteIndex, pages: list[Path], case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(InvalidInputError, match=message):
        remote.add_images([pages[2], make(pages[2].parent)])
    assert len(remote) == 0


def test_a_file_that_is_too_large_is_named_before_it_is_sent(remote: RemoteIndex, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(png((90, 90), noise=True))
    with pytest.raises(
        InvalidInputError, match=r"images\[0\] '.*big.png' is too large: .* \(--max-body\); make it smaller"
    ):
        remote.add_images([tmp_path / "big.png"])


def test_too_many_at_once_are_told_how_many_go(remote: RemoteIndex) -> None:
    images = [png((40, 40), noise=True)] * 5  # about 6.4 kB each in base64
    with pytest.raises(InvalidInputError, match=r"5 images are too many at once: .* takes 20000 .*; add 3 at a time"):
        remote.add_images(images)
    assert len(remote.add_images(images[:3])) == 3


def test_lengths_are_checked(remote: RemoteIndex, pages: list[Path]) -> None:
    for wrong, message in (
        ({"texts": ["a"]}, "3 images but 1 texts"),
        ({"metadatas": [{}]}, "3 images but 1 metadatas"),
        ({"ids": ["a"]}, "3 texts but 1 ids"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            remote.add_images(pages, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="put a single image into"):
        remote.add_images(pages[0])  # type: ignore[arg-type]


def test_over_http_images_are_refused_as_problems(page_model: FastLaneModel, model: FastLaneModel) -> None:
    """By whoever sends them: too many pixels, paths, no base64, and a model of texts; by every route that stores."""
    settings = ServeSettings(most_image_pixels=1000)
    small, large = (base64.b64encode(png(size)).decode() for size in ((20, 20), (40, 40)))
    with (
        FastLaneIndex.create(model=page_model) as index,
        FastLaneIndex.create(model=model) as texts,
        TestClient(create_app(settings, {"pages": index, "texts": texts})) as client,
    ):

        def told(route: str, body: dict[str, Any], name: str = "pages") -> tuple[int, str]:
            answer = client.post(f"/v1/indexes/{name}/documents{route}", json=body)
            return answer.status_code, answer.json().get("detail", "")

        def image(image: str) -> dict[str, Any]:
            return {"images": [{"id": "x", "image": image}]}

        assert told("/images", image(large)) == (422, "images[0] has 40 x 40 pixels, more than 1000; make it smaller")
        document = {"id": "x", "text": "", "metadata": {IMAGE_KEY: f"data:image/png;base64,{large}"}}
        assert told("", {"documents": [document]}) == (
            422,
            "document 0 has 40 x 40 pixels, more than 1000; make it smaller",
        )
        status, detail = told("/ingest", document)
        assert (status, "the document 'x' has 40 x 40 pixels" in detail) == (422, True)
        status, detail = told("/images", image("/etc/passwd"))
        assert (status, "must be the base64 of an image file" in detail) == (422, True)
        status, detail = told("/images", image(small), "texts")
        assert (status, "the model 'fastlane-default' takes no images" in detail) == (422, True)
        assert (len(index), len(texts)) == (0, 0)
        assert told("/images", image(small)) == (200, "")
        assert told("/images", image(f"data:image/png;base64,{small}")) == (200, "")
        assert index.ids() == ["x"]
        assert client.get("/v1/indexes/pages").json()["model"]["takes_images"] is True


def test_a_model_of_texts_is_named_before_a_file_is_read(
    model: FastLaneModel, remote_of: Callable[..., RemoteIndex]
) -> None:
    with FastLaneIndex.create(model=model) as index:
        remote = remote_of(index)
        assert not remote.model.takes_images
        with pytest.raises(InvalidInputError, match="add_images: the model 'fastlane-default' takes no images"):
            remote.add_images(["nothing.png"])
