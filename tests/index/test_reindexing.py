"""An index of another model, encoded again where it is."""

import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from word_model import WordModel, embed

from fastlane_rag import FastLaneIndex
from fastlane_rag.cli import main
from fastlane_rag.errors import IndexLockedError, IndexNotFoundError, ModelMismatchError
from fastlane_rag.index.reindexing import reindex

TEXTS = {f"d{n}": f"document {n} of {'cats' if n % 2 else 'dogs'}" for n in range(40)}


class WideModel(WordModel):
    """Another model: its token rows are wider."""

    name = "wide"
    dim = 24

    def __init__(self) -> None:
        super().__init__("wide-1")

    def encode_documents(self, texts, *, batch_size=None, show_progress=None):
        self.encoded += len(texts)
        return [np.pad(embed(text), ((0, 0), (0, 8))) for text in texts]


class FailingModel(WideModel):
    """Fails after so many documents."""

    def encode_documents(self, texts, *, batch_size=None, show_progress=None):
        if self.encoded >= 20:
            raise RuntimeError("out of memory")
        return super().encode_documents(texts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index of the model of words."""
    with FastLaneIndex.create(tmp_path / "an index", model=WordModel(), filter_keys=["n"], codec="fp16") as index:
        metadatas = [{"n": n} for n in range(len(TEXTS))]
        index.add(TEXTS.values(), ids=list(TEXTS), metadatas=metadatas)
        index.delete(["d3"])
    return tmp_path / "an index"


def test_ids_texts_metadata_and_settings_stay(path: Path) -> None:
    """Only the rows are other ones; the folder beside is gone."""
    with FastLaneIndex.open(path) as index:
        before, stats = index.get(index.ids()), index.stats()
    model = WideModel()
    done = reindex(path, model=model)
    assert (done.documents, done.added, model.encoded) == (39, 39, 39)
    with FastLaneIndex.open(path, model=model) as index:
        assert index.get(index.ids()) == before
        after = index.stats()
        assert (after.dim, after.model, after.fingerprint) == (24, "wide", "wide-1")
        assert (after.codec, after.filter_keys, after.tokens) == (stats.codec, stats.filter_keys, stats.tokens)
        assert index.ids({"n": 7}) == ["d7"]
        assert index.verify() == []
        index.add(["one more"], ids=["new"])
    assert [one.name for one in path.parent.iterdir()] == ["an index"]


def test_of_the_same_model_nothing_is_done(path: Path) -> None:
    model = WordModel()
    assert reindex(path, model=model).added == 0
    assert model.encoded == 0


def test_an_interrupted_run_leaves_the_index_and_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encoded before the failure is not encoded again, and what was deleted meanwhile does not come back."""
    monkeypatch.setattr("fastlane_rag.index.ingestion.CHUNK", 10)
    with pytest.raises(RuntimeError, match="out of memory"):
        reindex(path, model=FailingModel())
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert index.stats().model == "words"
        index.delete(["d5"])
        expected = index.ids()
    model = WideModel()
    reindex(path, model=model)
    assert model.encoded == 39 - 20
    with FastLaneIndex.open(path, model=model) as index:
        assert index.ids() == expected
    assert [one.name for one in path.parent.iterdir()] == ["an index"]


def test_nobody_writes_meanwhile_and_readers_read_on(path: Path) -> None:
    """The writer's lock is held from the first document to the last."""
    entered, go_on = threading.Event(), threading.Event()

    class SlowModel(WideModel):
        def encode_documents(self, texts, *, batch_size=None, show_progress=None):
            entered.set()
            go_on.wait(20)
            return super().encode_documents(texts)

    thread = threading.Thread(target=reindex, args=(path,), kwargs={"model": SlowModel()})
    thread.start()
    try:
        assert entered.wait(20)
        with FastLaneIndex.open(path, model=WordModel(), timeout=0) as other:
            with pytest.raises(IndexLockedError):
                other.add(["late"])
            assert other.search("cats", k=1)
    finally:
        go_on.set()
        thread.join()


def test_the_error_about_another_model_names_the_command(path: Path) -> None:
    with pytest.raises(ModelMismatchError, match="fastlane reindex"):
        FastLaneIndex.open(path, model=WideModel())


def test_no_index_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError):
        reindex(tmp_path / "nowhere", model=WideModel())
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fastlane reindex` with the bundled model, on an index of another."""
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(["Cats purr.", "Dogs bark."], ids=["cat", "dog"])
    result = CliRunner().invoke(main, ["reindex", str(tmp_path / "index")])
    assert result.exit_code == 0, result.output
    assert "2 documents" in result.output
    with FastLaneIndex.open(tmp_path / "index") as index:
        assert index.search("what does a cat do?", k=1)[0].id == "cat"
    again = CliRunner().invoke(main, ["reindex", str(tmp_path / "index")])
    assert "of this model already" in again.output
