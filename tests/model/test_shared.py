"""What is loaded by name is loaded once a process, quietly, and shared by all that use it."""

import gc
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.model.shared import shared_model


@pytest.fixture
def folder(checkpoints, tmp_path) -> Path:
    """A model's folder, of its own for each test."""
    return Path(shutil.copytree(checkpoints["multi-vector"], tmp_path / "model"))


def test_threads_that_ask_at_once_get_one_model(folder, monkeypatch):
    loads, begin = [], threading.Barrier(4)
    load = FastLaneModel.from_pretrained

    def counting(model, **options):
        loads.append(model)
        return load(model, **options)

    monkeypatch.setattr(FastLaneModel, "from_pretrained", counting)

    def ask(_):
        begin.wait()
        return shared_model(str(folder))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(loads) == 1
    assert all(one is found[0] for one in found)


def test_indexes_share_and_a_model_of_ones_own_is_apart(folder):
    with FastLaneIndex.create(model=folder) as one, FastLaneIndex.create(model=str(folder), device="cpu") as other:
        assert one.model is other.model
        assert FastLaneModel.from_pretrained(folder) is not one.model


def test_a_bound_of_tokens_shares_the_weights(folder):
    with FastLaneIndex.create(model=folder, max_document_tokens=9) as bounded:
        gc.collect()
        with FastLaneIndex.create(model=folder) as whole:
            assert whole.model.max_document_tokens is None
            assert bounded.model.max_document_tokens == 9
            assert bounded.model.encoder is whole.model.encoder


def test_models_that_keep_other_tokens_are_apart(folder):
    half, whole = shared_model(folder, document_budget=0.5), shared_model(folder)
    assert (half.document_budget, whole.document_budget) == (0.5, None)


def test_a_folder_that_was_written_anew_is_loaded_anew(folder):
    before = shared_model(folder)
    (folder / "README.md").write_text("Trained once more.")
    assert shared_model(folder) is not before


def test_what_nothing_uses_any_more_is_freed(folder):
    found = shared_model(folder)
    gone = weakref.ref(found.encoder)
    del found
    gc.collect()
    assert gone() is None


def test_the_bundled_model_stays():
    first = weakref.ref(shared_model())
    gc.collect()
    assert first() is shared_model()


def test_a_failed_loading_is_tried_again(tmp_path, checkpoints):
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(ModelError):
        shared_model(path)
    path.rmdir()
    shutil.copytree(checkpoints["multi-vector"], path)
    assert shared_model(path).dim > 0


@pytest.mark.parametrize("model", [3, ["name"], object()], ids=["number", "list", "object"])
def test_what_is_no_model_is_named(model):
    with pytest.raises(InvalidInputError, match=f"not {type(model).__name__}"):
        shared_model(model)


@pytest.mark.parametrize("model", ["/no/such/folder", "a/b/c", "http://x", " ", "x" * 500, "\0"])
@pytest.mark.parametrize("offline", [True, False])
def test_what_names_no_model_is_told_with_a_network_and_without(monkeypatch, offline, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelError, match="there is no such folder, and it is no name of the Hugging Face hub"):
        shared_model(model)


def test_a_folder_of_very_many_files_is_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr("fastlane_rag.model.shared._MOST_FILES", 5)
    for number in range(6):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ModelError, match="holds more than 5 files"):
        shared_model(tmp_path)


def test_loading_prints_nothing_and_leaves_the_libraries_as_they_are():
    program = """
from transformers.utils import logging
from huggingface_hub.utils import are_progress_bars_disabled
before = logging.is_progress_bar_enabled(), are_progress_bars_disabled(), logging.get_verbosity()
from fastlane_rag import FastLaneIndex
FastLaneIndex.create().add(["Cats purr."])
assert before == (logging.is_progress_bar_enabled(), are_progress_bars_disabled(), logging.get_verbosity())
assert before[0] and not before[1]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
