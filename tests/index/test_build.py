"""What replaces an index is built beside it and takes its place at the end, or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import (
    IndexExistsError,
    IndexReadOnlyError,
    IndexReplacedError,
    InvalidInputError,
    ModelMismatchError,
)
from fastlane_rag.upkeep.verify import verify

OLD = ["old words", "and more"]
HERE = Path(__file__).parent


def build(path: Path, texts: list[str], **options: object) -> FastLaneIndex:
    with FastLaneIndex.build(path, model=WordModel(), **options) as index:
        index.add(texts)
    return index


def texts(index: FastLaneIndex) -> list[str]:
    return [document.text for document in index.get(index.ids())]


def beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def test_a_new_index_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "deep" / "index"
    with FastLaneIndex.build(path, model=WordModel(), filter_keys=["a"]) as index:
        index.add(["one"], metadatas=[{"a": 1}])
        assert not path.exists()
        assert index.search("one")[0].text == "one"
    assert index.path == path
    assert texts(index) == ["one"]
    assert index.stats().filter_keys == ("a",)
    index.add(["two"])
    index.close()
    assert texts(FastLaneIndex.open(path, model=WordModel())) == ["one", "two"]
    assert beside(path) == []
    assert verify(path) == []


@pytest.mark.parametrize("there", [["directory"], [".DS_Store"], ["lost+found"]])
def test_a_directory_that_is_there_is_used(tmp_path, there):
    path = tmp_path / "index"
    path.mkdir()
    for name in there:
        if name != "directory":
            (path / name).touch()
    assert texts(build(path, ["one"])) == ["one"]
    assert beside(path) == []
    assert verify(path) == []


def test_readers_and_writers_of_the_old_index_go_on_and_then_have_the_new_one(tmp_path, small_limits):
    path = tmp_path / "index"
    build(path, OLD * 20).close()
    with (
        FastLaneIndex.open(path, model=WordModel(), read_only=True) as reader,
        FastLaneIndex.open(path, model=WordModel()) as writer,
    ):
        assert len(reader) == 40
        with FastLaneIndex.build(path, model=WordModel(), overwrite=True) as index:
            index.add(["new words"] * 30)
            assert len(reader) == 40
            writer.add(["during"])
            assert len(reader) == 41
        assert texts(reader) == texts(writer) == ["new words"] * 30
        writer.add(["after"])
        assert len(index) == len(reader) == 31
        assert verify(path) == []
        assert beside(path) == []


@pytest.mark.parametrize("new", [["good", 5], ["good", None]])
@pytest.mark.parametrize("existing", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, new, existing):
    path = tmp_path / "index"
    if existing:
        build(path, OLD).close()
    with pytest.raises(InvalidInputError):
        build(path, new, overwrite=True)
    assert beside(path) == []
    if existing:
        assert texts(FastLaneIndex.open(path, model=WordModel())) == OLD
    else:
        assert not path.exists()
        assert texts(build(path, OLD)) == OLD  # nothing blocks the second try


def test_a_failing_encoder_leaves_the_old_index(tmp_path):
    class Failing(WordModel):
        def encode_documents(self, texts, **options):
            raise RuntimeError("no more power")

    path = tmp_path / "index"
    build(path, OLD).close()
    with (
        pytest.raises(RuntimeError, match="no more power"),
        FastLaneIndex.build(path, model=Failing(), overwrite=True) as index,
    ):
        index.add(["new"])
    assert texts(FastLaneIndex.open(path, model=WordModel())) == OLD
    assert beside(path) == []


def test_what_cannot_be_replaced_is_told_before_anything_is_encoded(tmp_path):
    path = tmp_path / "index"
    build(path, OLD).close()
    with pytest.raises(IndexExistsError, match="pass overwrite=True"), FastLaneIndex.build(path, model=WordModel()):
        pytest.fail("the block was entered")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with (
        pytest.raises(IndexExistsError, match=r"thesis\.tex"),
        FastLaneIndex.build(other, model=WordModel(), overwrite=True),
    ):
        pytest.fail("the block was entered")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_told_before_anything_is_encoded(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(IndexReadOnlyError), FastLaneIndex.build(tmp_path / "index", model=WordModel()):
        pytest.fail("the block was entered")


def test_a_parent_that_takes_no_directory_beside_is_no_hindrance(tmp_path, monkeypatch):
    """As where the index is a mounted volume: its files are copied instead of renamed."""
    path = tmp_path / "index"
    path.mkdir()
    mkdir = Path.mkdir

    def refusing(self, *arguments, **options):
        if ".building-" in self.name:
            raise PermissionError(13, "Permission denied", str(self))
        return mkdir(self, *arguments, **options)

    def busy(self, *arguments):
        raise OSError(16, "Device or resource busy", str(self))

    monkeypatch.setattr(Path, "mkdir", refusing)
    monkeypatch.setattr(Path, "rmdir", busy)
    assert texts(build(path, ["one"])) == ["one"]
    assert texts(build(path, ["two"], overwrite=True)) == ["two"]
    assert verify(path) == []


def test_a_damaged_index_can_be_replaced(tmp_path):
    path = tmp_path / "index"
    build(path, OLD).close()
    (path / "catalogue.sqlite3").write_bytes(b"not a database, and long enough to be read as one" * 20)
    assert texts(build(path, ["new"], overwrite=True)) == ["new"]
    assert verify(path) == []


def test_objects_of_another_model_are_told(tmp_path):
    path = tmp_path / "index"
    build(path, OLD).close()
    with FastLaneIndex.open(path, model=WordModel()) as old:
        assert len(old) == 2
        with FastLaneIndex.build(path, model=WordModel("another"), overwrite=True) as index:
            index.add(["new"])
        for call in (lambda: len(old), lambda: old.search("old"), lambda: old.add(["late"])):
            with pytest.raises(IndexReplacedError, match=r"overwritten by another one .* open the index again"):
                call()
        assert texts(index) == ["new"]
    with pytest.raises(ModelMismatchError):
        FastLaneIndex.open(path, model=WordModel())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_build_leaves_the_old_index_and_is_cleared_away(tmp_path, sent, existing):
    path = tmp_path / "index"
    if existing:
        build(path, OLD).close()
    code = """
import sys, time
from word_model import WordModel
from fastlane_rag import FastLaneIndex
with FastLaneIndex.build(sys.argv[1], model=WordModel(), overwrite=True) as index:
    index.add(["new"] * 50)
    print("added", flush=True)
    time.sleep(30)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"added\n"
    [left] = beside(path)
    child.send_signal(getattr(signal, sent))
    child.wait(20)
    child.stdout.close()
    assert beside(path) == ([] if sent == "SIGINT" else [left])
    if existing:
        assert texts(FastLaneIndex.open(path, model=WordModel())) == OLD
    if sent != "SIGINT":
        long_ago = time.time() - 3600
        os.utime(path.with_name(left), (long_ago, long_ago))
    assert texts(build(path, ["new"], overwrite=True)) == ["new"]
    assert beside(path) == []


def test_the_directory_of_a_build_that_goes_on_is_left_alone(tmp_path):
    path = tmp_path / "index"
    going_on = FastLaneIndex.build(path, model=WordModel())
    first = going_on.__enter__()
    first.add(["one"])
    [place] = beside(path)
    long_ago = time.time() - 3600
    os.utime(path.with_name(place), (long_ago, long_ago))
    build(path, ["two"]).close()
    assert beside(path) == [place]
    assert texts(first) == ["one"]
    with pytest.raises(IndexExistsError):
        going_on.__exit__(None, None, None)
    assert beside(path) == []
    assert texts(FastLaneIndex.open(path, model=WordModel())) == ["two"]


def test_saving_to_a_new_place_leaves_nothing_where_it_fails(tmp_path, monkeypatch):
    from fastlane_rag.storage.records import Writer

    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(OLD)
        with monkeypatch.context() as patched:
            patched.setattr(Writer, "put", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
            with pytest.raises(MemoryError):
                index.save(tmp_path / "copy")
        assert list(tmp_path.iterdir()) == []
        index.save(tmp_path / "copy")
        assert texts(FastLaneIndex.open(tmp_path / "copy", model=WordModel())) == OLD
