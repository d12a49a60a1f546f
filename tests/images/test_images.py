"""Documents that are images: added, searched, explained, returned by both adapters, refused where they cannot be."""

import base64
import json
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sentence_transformers import MultiVectorEncoder

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.candidates import CandidateIndex
from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.explain import ImageExplanation
from fastlane_rag.index.reindexing import reindex
from fastlane_rag.scoring import maxsim
from fastlane_rag.types import IMAGE_KEY, Document

QUERY = "what is the capital of france ?"


@pytest.fixture
def index(page_model: FastLaneModel, pages: list[Path]):
    with FastLaneIndex.create(model=page_model) as made:
        made.add_images(pages, ["one", "two", "three"], [{"page": i} for i in range(3)], texts=["red", "", "black"])
        yield made


@pytest.fixture
def counted(page_model: FastLaneModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the model encodes."""
    calls: list[int] = []
    whole = FastLaneModel.encode_images

    def encode(self: FastLaneModel, images: Any, **options: Any) -> Any:
        calls.append(len(images))
        return whole(self, images, **options)

    monkeypatch.setattr(FastLaneModel, "encode_images", encode)
    return calls


def test_an_index_beside_a_database_takes_images_too(page_model: FastLaneModel, pages: list[Path]) -> None:
    class Nowhere:
        """A database that holds nothing, so that the index answers."""

        def upsert(self, *_: Any) -> None: ...

        def delete(self, _: Any) -> None: ...

        def versions(self) -> dict[str, str]:
            return {}

        def candidates(self, *_: Any) -> list[str]:
            return []

    with CandidateIndex(FastLaneIndex.create(model=page_model), Nowhere()) as made:
        assert made.add_images(pages[:2], ["one", "two"], texts=["red", ""]) == ["one", "two"]
        assert {hit.id: hit.metadata[IMAGE_KEY] for hit in made.search(QUERY)} == {
            "one": str(pages[0]),
            "two": str(pages[1]),
        }
        with pytest.raises(InvalidInputError, match="put a single image into"):
            made.add_images(pages[0])


def test_images_are_encoded_as_the_library_does(
    page_folder: Path, page_model: FastLaneModel, pages: list[Path]
) -> None:
    theirs = MultiVectorEncoder(str(page_folder), device="cpu")
    opened = [Image.open(page).convert("RGB") for page in pages]
    for given in (pages, [str(page) for page in pages], [page.read_bytes() for page in pages], opened):
        for ours, other in zip(
            page_model.encode_images(given, batch_size=2), theirs.encode_document(opened), strict=True
        ):
            torch.testing.assert_close(ours, torch.nn.functional.normalize(other, dim=-1), atol=1e-5, rtol=1e-4)
    assert page_model.takes_images
    (query,) = page_model.encode_queries([QUERY])
    torch.testing.assert_close(query, theirs.encode_query([QUERY])[0], atol=1e-5, rtol=1e-4)


def test_images_are_searched_by_full_sums(index: FastLaneIndex, page_model: FastLaneModel, pages: list[Path]) -> None:
    hits = index.search(QUERY, k=5, weighted=False)
    assert sorted(hit.id for hit in hits) == ["one", "three", "two"]
    (query,) = page_model.encode_queries([QUERY])
    for hit in hits:
        (rows,) = page_model.encode_images([hit.metadata[IMAGE_KEY]])
        assert hit.score == pytest.approx(float(maxsim(query, rows[None])), abs=0.05)
    assert {hit.metadata[IMAGE_KEY] for hit in hits} == {str(page) for page in pages}
    assert [hit.id for hit in index.search("black", filter={"page": {"$gte": 2}})] == ["three"]
    assert index.search("red", lane="words")[0].id == "one"


def test_images_are_kept_by_path_or_as_bytes(
    page_folder: Path, page_model: FastLaneModel, pages: list[Path], tmp_path: Path
) -> None:
    """An index on disk is opened and searched again; bytes come back as they were."""
    content = pages[1].read_bytes()
    with FastLaneIndex.create(tmp_path / "index", model=page_model) as made:
        made.add_images([pages[0], content, Image.open(pages[2])], ["path", "bytes", "pillow"])
        before = {hit.id: hit.score for hit in made.search(QUERY)}
    with FastLaneIndex.open(tmp_path / "index", model=page_model) as opened:
        assert {hit.id: hit.score for hit in opened.search(QUERY)} == before
        stored = {one.id: one.metadata[IMAGE_KEY] for one in opened.find()}
        assert opened.verify() == []
    assert stored["path"] == str(pages[0])
    assert stored["bytes"].startswith("data:image/jpeg;base64,")
    assert base64.b64decode(stored["bytes"].partition(",")[2]) == content
    assert Image.open(BytesIO(base64.b64decode(stored["pillow"].partition(",")[2]))).size == (64, 64)


def test_what_is_stored_unchanged_is_not_encoded_again(
    index: FastLaneIndex, pages: list[Path], counted: list[int]
) -> None:
    """Text and image count, metadata does not; a text in place of an image is encoded, and the other way round."""
    index.add_images(pages[:1], ["one"], [{"page": 7}], texts=["red"])
    assert counted == []
    assert index.get(["one"])[0].metadata["page"] == 7
    index.add_images(pages[1:2], ["one"], texts=["red"])
    assert counted == [1]
    before = index.stats().tokens
    index.add(["red"], ["one"])
    assert index.stats().tokens != before
    assert not isinstance(index.explain(QUERY, "one"), ImageExplanation)
    index.add_images(pages[:1], ["one"], texts=["red"])
    assert counted == [1, 1]
    assert index.stats().tokens == before


def test_a_stream_and_add_take_images_among_texts(
    page_model: FastLaneModel, pages: list[Path], counted: list[int]
) -> None:
    """By their metadata; batches keep the order."""
    documents = [Document(str(i), "the capital", {IMAGE_KEY: str(pages[i])} if i in (1, 2) else {}) for i in range(3)]
    with FastLaneIndex.create(model=page_model) as index:
        index.ingest(documents)
        assert index.ingest(documents).unchanged == 3
        index.add(["", "page"], ["a", "b"], [{IMAGE_KEY: str(pages[0])}, None])
        assert counted == [2, 1]
        (query,) = page_model.encode_queries([QUERY])
        for hit in index.search(QUERY, weighted=False):
            image = hit.metadata.get(IMAGE_KEY)
            (rows,) = page_model.encode_images([image]) if image else page_model.encode_documents([hit.text])
            assert hit.score == pytest.approx(float(maxsim(query, rows[None])), abs=0.05)


def test_an_index_of_images_is_encoded_again(page_model: FastLaneModel, pages: list[Path], tmp_path: Path) -> None:
    small = page_model.truncated(8)
    with FastLaneIndex.create(tmp_path / "index", model=page_model) as index:
        index.add_images(pages)
        tokens = index.stats().tokens
    assert reindex(tmp_path / "index", model=small).added == 3
    with FastLaneIndex.open(tmp_path / "index", model=small) as index:
        assert (index.stats().tokens, index.dim) == (tokens, 8)
        assert isinstance(index.search(QUERY)[0].explain(), ImageExplanation)


def test_a_model_of_texts_refuses_images_by_name(model: FastLaneModel, pages: list[Path]) -> None:
    with FastLaneIndex.create(model=model) as index:
        for call in (
            lambda: index.add_images(pages),
            lambda: index.add([""], ["x"], [{IMAGE_KEY: str(pages[0])}]),
            lambda: index.ingest([Document("x", "", {IMAGE_KEY: str(pages[0])})]),
        ):
            with pytest.raises(InvalidInputError, match="the model 'fastlane-default' takes no images"):
                call()
        assert len(index) == 0
        with pytest.raises(InvalidInputError, match="takes text, not images"):
            model.encode_images(pages)


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: [f / "nothing.png"], "images\\[0\\]: there is no file"),
    "folder": (lambda f: [f], "images\\[0\\]: there is no file"),
    "text": (lambda f: [_written(f / "a.png", b"no image")], "cannot be read as an image"),
    "cut": (lambda f: [(f / "three.png").read_bytes()[:70]], "cannot be read as an image"),
    "address": (lambda f: ["https://example.com/a.png"], "is an address"),
    "data": (lambda f: ["data:text/plain;base64,AAAA"], "must begin with data:image"),
    "base64": (lambda f: ["data:image/png;base64,!!"], "is no base64"),
    "number": (lambda f: [7], "images\\[0\\] must be a path, bytes or an image of Pillow, not int"),
    "one": (lambda f: f / "three.png", "put a single image into"),
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_image_is_refused_and_nothing_is_stored(
    page_model: FastLaneModel, pages: list[Path], case: str
) -> None:
    make, message = WRONG[case]
    given = make(pages[2].parent)
    images = [pages[0], *given] if case not in ("one",) else given
    message = message.replace("[0\\]", "[1\\]")
    with FastLaneIndex.create(model=page_model) as index:
        with pytest.raises(InvalidInputError, match=message):
            index.add_images(images)
        assert len(index) == 0


def test_lengths_and_keys_are_checked(index: FastLaneIndex, pages: list[Path]) -> None:
    with pytest.raises(InvalidInputError, match="3 images but 1 texts"):
        index.add_images(pages, texts=["a"])
    with pytest.raises(InvalidInputError, match="3 images but 1 metadatas"):
        index.add_images(pages, metadatas=[{}])
    with pytest.raises(InvalidInputError, match="for another image"):
        index.add_images(pages[:1], metadatas=[{IMAGE_KEY: "other.png"}])
    with pytest.raises(InvalidInputError, match=r"'one' has fastlane_image = NoneType None.*add the document again"):
        index.update_metadata(["one"], [{"page": 1}])
    assert index.update_metadata(["one"], [{"page": 9, IMAGE_KEY: str(pages[0])}]) == 1


def test_a_map_of_the_page_says_where_each_token_matched(
    index: FastLaneIndex, page_model: FastLaneModel, tmp_path: Path
) -> None:
    hit = index.search(QUERY, k=1)[0]
    found = hit.explain()
    assert isinstance(found, ImageExplanation)
    again = index.explain(QUERY, hit.id)
    assert isinstance(again, ImageExplanation)
    np.testing.assert_allclose(again.similarities, found.similarities, atol=1e-5)
    assert found.grid == (4, 4)
    assert found.spans == ()
    assert found.score == pytest.approx(hit.score, abs=0.05)
    (query,) = page_model.encode_queries([QUERY])
    (rows,) = page_model.encode_images([found.image])
    np.testing.assert_allclose(found.similarities.reshape(len(query), -1), (query @ rows[:16].T).numpy(), atol=1e-5)
    for match, similarities in zip(found.tokens, found.similarities, strict=True):
        if match.patch is not None:
            assert match.patch == np.unravel_index(similarities.argmax(), found.grid)
            assert match.matched == f"patch {match.patch[0]}, {match.patch[1]}"
            assert match.similarity == pytest.approx(similarities.max(), abs=1e-5)
    shares = [match.share for match in found.tokens]
    np.testing.assert_allclose(found.heat, np.einsum("i,irc->rc", shares, found.similarities), atol=1e-5)
    for token in (None, 3):
        drawn = found.heat_map(token)
        assert drawn.size == found.image.size
        drawn.save(tmp_path / "map.png")
        assert Image.open(tmp_path / "map.png").size == found.image.size
    assert np.array_equal(np.asarray(found.heat_map(alpha=0)), np.asarray(found.image))
    html = found._repr_html_()
    assert 'src="data:image/png;base64,' in html
    text = StringIO()
    Console(file=text, width=120).print(found)
    assert "in 4 rows and 4 columns" in text.getvalue()
    for wrong in (len(found.tokens), -1, True):
        with pytest.raises(InvalidInputError, match="token must be None or from 0"):
            found.heat_map(wrong)
    with pytest.raises(InvalidInputError, match="alpha must be"):
        found.heat_map(alpha=2)


def test_patches_that_a_budget_leaves_out_are_blank(page_folder: Path, pages: list[Path]) -> None:
    small = FastLaneModel.from_pretrained(page_folder, device="cpu", backend="torch", document_budget=6)
    with FastLaneIndex.create(model=small) as index:
        index.add_images(pages)
        assert index.stats().tokens == 18
        found = index.search(QUERY)[0].explain()
    assert isinstance(found, ImageExplanation)
    assert 10 <= np.isnan(found.heat).sum() <= 16
    assert found.heat_map().size == found.image.size


def test_a_processor_that_says_nothing_of_its_patches_is_named(
    index: FastLaneIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idefics3 cuts images into parts; another grid than the encoding's would be drawn wrong."""
    from sentence_transformers.multi_vector_encoder import interpretability

    def unknown(*_: object) -> tuple[int, int]:
        raise NotImplementedError("Idefics3 splits each image")

    hit = index.search(QUERY)[0]
    monkeypatch.setattr(interpretability, "get_n_patches", unknown)
    with pytest.raises(ModelError, match="cannot tell where in the image a token is: Idefics3 splits"):
        hit.explain()
    monkeypatch.setattr(interpretability, "get_n_patches", lambda *_: (5, 5))
    with pytest.raises(ModelError, match="the encoding has 16 patches, the grid of ColPaliProcessor 25"):
        hit.explain()


def test_langchain_returns_images_with_their_path(index: FastLaneIndex, pages: list[Path]) -> None:
    from langchain_core.documents import Document as LangChainDocument
    from langchain_fastlane import FastLaneRetriever, FastLaneVectorStore

    found = FastLaneRetriever(index=index, k=3).invoke(QUERY)
    assert {document.metadata[IMAGE_KEY] for document in found} == {str(page) for page in pages}
    store = FastLaneVectorStore(index)
    before = index.stats().tokens
    store.add_documents([LangChainDocument("a page", id="new", metadata={IMAGE_KEY: str(pages[0])})])
    assert index.stats().tokens == before + 21
    assert isinstance(index.explain(QUERY, "new"), ImageExplanation)
    assert "new" in [document.id for document in store.similarity_search(QUERY, k=4)]


def test_llama_index_returns_images_with_their_path(index: FastLaneIndex, pages: list[Path]) -> None:
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.fastlane import FastLaneRetriever

    retriever = FastLaneRetriever(index=index, similarity_top_k=4)
    assert {one.node.metadata[IMAGE_KEY] for one in retriever.retrieve(QUERY)} == {str(page) for page in pages}
    before = index.stats().tokens
    retriever.add_nodes([TextNode(id_="new", text="a page", metadata={IMAGE_KEY: str(pages[0])})])
    assert index.stats().tokens == before + 21
    found = {one.node.node_id: one.node for one in retriever.retrieve(QUERY)}
    assert found["new"].metadata[IMAGE_KEY] == str(pages[0])


def test_a_server_takes_images_as_bytes_and_reads_no_file(index: FastLaneIndex, pages: list[Path]) -> None:
    """A path would be one of the server's machine."""
    from fastapi.testclient import TestClient

    from fastlane_rag.serve.app import create_app
    from fastlane_rag.serve.settings import ServeSettings

    data = f"data:image/png;base64,{base64.b64encode(pages[0].read_bytes()).decode()}"
    with TestClient(create_app(ServeSettings(), {"pages": index})) as client:
        url = "/v1/indexes/pages"

        def documents(image: str) -> list[dict[str, Any]]:
            return [{"id": "new", "text": "", "metadata": {IMAGE_KEY: image}}]

        for refused in (
            client.post(f"{url}/documents", json={"documents": documents(str(pages[0]))}),
            client.post(
                f"{url}/documents/ingest",
                content=json.dumps(documents(str(pages[0]))[0]),
                headers={"Content-Type": "application/x-ndjson"},
            ),
        ):
            assert refused.status_code == 422, refused.text
            assert "a path on the server" in refused.text
        assert len(index) == 3
        assert client.post(f"{url}/documents", json={"documents": documents(data)}).status_code == 200
        told = client.post(f"{url}/explain", json={"query": QUERY, "id": "new"}).json()
        assert any(token["patch"] for token in told["tokens"])
