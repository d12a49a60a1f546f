"""A tiny page model with random weights, and two pages."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from fastlane_rag import FastLaneModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the notebook makes, in a folder."""
    spec = importlib.util.spec_from_file_location("page_model", ROOT / "examples" / "page_model.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
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
