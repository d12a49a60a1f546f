"""A tiny page model with random weights, and two pages."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from fastlane_rag import FastLaneIndex, FastLaneModel, RemoteIndex

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory, module_of: Callable[[Path], ModuleType]) -> Path:
    """The checkpoint that the notebook makes, in a folder."""
    made = module_of(ROOT / "examples" / "page_model.py")
    torch.set_num_threads(1)
    folder: Path = made.random_page_model(tmp_path_factory.mktemp("pages") / "model")
    return folder


@pytest.fixture(scope="session")
def page_model(page_folder: Path) -> FastLaneModel:
    """It, in float32."""
    return FastLaneModel.from_pretrained(page_folder, device="cpu", dtype="float32", backend="torch")


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pictures of different shapes, as PNG and JPEG."""
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for i, (size, name) in enumerate([((80, 120), "one.png"), ((200, 90), "two.jpg"), ((64, 64), "three.png")]):
        image = Image.new("RGB", size, "white")
        ImageDraw.Draw(image).rectangle((5 + 10 * i, 5, 40 + 10 * i, 50), fill=("red", "navy", "black")[i])
        image.save(folder / name)
        found.append(folder / name)
    return found


@pytest.fixture
def served(page_model: FastLaneModel) -> Iterator[FastLaneIndex]:
    """An empty index that a server serves."""
    with FastLaneIndex.create(model=page_model) as index:
        yield index


@pytest.fixture
def remote_of(module_of: Callable[[Path], ModuleType]) -> Iterator[Callable[..., RemoteIndex]]:
    """Serves an index, with the given settings, and gives it back as one from afar."""
    from fastlane_rag.serve.app import create_app
    from fastlane_rag.serve.settings import ServeSettings

    running = module_of(ROOT / "tests/serve/conftest.py").Running
    with ExitStack() as started:

        def serve(index: FastLaneIndex, **settings: Any) -> RemoteIndex:
            server = running(create_app(ServeSettings(**settings), {"pages": index}))
            started.callback(server.stop)
            return started.enter_context(RemoteIndex(server.url, retries=0))

        yield serve


@pytest.fixture
def remote(served: FastLaneIndex, remote_of: Callable[..., RemoteIndex]) -> RemoteIndex:
    """The empty index from afar; its server takes 20 kB at once, and 30,000 pixels of an image."""
    return remote_of(served, most_body_bytes=20_000, most_image_pixels=30_000)
