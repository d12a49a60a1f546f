"""Merging, training and recoding beside reads and writes: nobody waits, nothing is lost, no failure is silent."""

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexReadOnlyError, StorageError
from fastlane_rag.types import Document
from fastlane_rag.upkeep import recode, rewrite, worker

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
SECONDS = 30


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """A hundred tokens train a codec, and a write does nothing larger than itself at once."""
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 100)
    monkeypatch.setattr(worker, "FOREGROUND_BYTES", 0)
    monkeypatch.setattr("fastlane_rag.upkeep.write.SMALL_BYTES", 0)
    monkeypatch.setattr("fastlane_rag.upkeep.merge.FAN", 100)


class Held:
    """Holds the first call of a function of the upkeep back until `let_go`."""

    def __init__(self, monkeypatch, module, name):
        self.begun, self._go = threading.Event(), threading.Event()
        self.calls = 0
        held = getattr(module, name)

        def hold(*arguments):
            self.calls += 1
            first = not self.begun.is_set()
            self.begun.set()
            deadline = time.monotonic() + SECONDS
            while first and not self._go.wait(0.005):
                arguments[-1]()  # its pace
                assert time.monotonic() < deadline
            return held(*arguments)

        monkeypatch.setattr(module, name, hold)

    def let_go(self):
        self._go.set()


@pytest.fixture
def training(monkeypatch):
    held = Held(monkeypatch, recode, "_trained")
    yield held
    held.let_go()


@pytest.fixture
def recoding(monkeypatch):
    held = Held(monkeypatch, rewrite, "copy_rows")
    yield held
    held.let_go()


def texts(first, last):
    return [f"word{i} of many" for i in range(first, last)]


def names(first, last):
    return [str(i) for i in range(first, last)]


def cross_the_threshold(index, held):
    """Two writes, the second of which makes a codec due; returns when the thread is held."""
    index.add(texts(0, 30), names(0, 30))
    index.add(texts(30, 40), names(30, 40))
    assert held.begun.wait(SECONDS)


def codecs(index):
    with index._storage.view() as view:
        return [part.codec.split("-")[0] for part in view.snapshot.parts if part.segment]


@contextmanager
def written_meanwhile(index):
    """Other writes while a step is held; what there must be after it."""
    index.delete(["3", "35"])
    index.add(["a new text"], ["7"])
    index.add(["still another"], ["new"])
    index.update_metadata(["8"], [{"seen": True}])
    yield
    expected = dict(zip(names(0, 40), texts(0, 40), strict=True)) | {"7": "a new text", "new": "still another"}
    del expected["3"], expected["35"]
    assert {document.id: document.text for document in index.get(index.ids())} == expected
    assert index.get(["8"])[0].metadata == {"seen": True}
    assert index.verify() == []
    for id_, text in expected.items():
        assert index.search(text, k=1, route_k="all")[0].id == id_


def test_a_write_that_makes_a_codec_due_does_not_wait_for_it(index, training):
    cross_the_threshold(index, training)
    assert index.stats().upkeep == "running"
    assert set(codecs(index)) == {"fp16"}
    with written_meanwhile(index):
        training.let_go()
        index.optimize()
        assert set(codecs(index)) == {"residual4"}
        assert index.stats().upkeep == "done"
    assert training.calls == 1


def test_documents_that_are_replaced_while_they_are_recoded_stay_replaced(index, recoding):
    cross_the_threshold(index, recoding)
    with written_meanwhile(index):
        recoding.let_go()
        index.optimize()
        assert set(codecs(index)) == {"residual4"}
        assert index.stats().dead == 3


def test_a_step_all_of_whose_documents_go_is_given_up(index, recoding):
    cross_the_threshold(index, recoding)
    index.delete(filter={})
    index.add(["one"], ["one"])
    recoding.let_go()
    index.optimize()
    assert index.ids() == ["one"]
    assert index.stats().segments == 1
    assert index.verify() == []


def test_pending_rows_of_later_writes_stay(index, recoding, monkeypatch):
    monkeypatch.setattr("fastlane_rag.upkeep.write.SMALL_BYTES", 10_000)
    monkeypatch.setattr("fastlane_rag.upkeep.merge.PENDING_BYTES", 1000)
    index.add(texts(0, 8), names(0, 8))
    index.add(texts(8, 12), names(8, 12))
    assert recoding.begun.wait(SECONDS)
    index.delete(["3"])
    index.add(["a new text"], ["12"])
    assert index.stats().pending == 12
    recoding.let_go()
    index.optimize()
    assert (index.stats().pending, index.stats().segments, index.stats().dead) == (1, 1, 1)
    assert sorted(index.ids(), key=int) == [name for name in names(0, 13) if name != "3"]
    assert index.verify() == []


def test_a_write_does_at_once_what_is_no_larger_than_itself(index):
    index.add(texts(0, 60))
    assert index.stats().upkeep == "done"
    assert codecs(index) == ["residual4"]


def test_small_steps_are_done_at_once(index, monkeypatch):
    monkeypatch.setattr(worker, "FOREGROUND_BYTES", 1 << 20)
    for first in range(0, 40, 10):
        index.add(texts(first, first + 10))
        assert index.stats().upkeep == "done"
    assert codecs(index) == ["residual4"]


def test_an_ingest_ends_in_code_and_gives_the_same_codec_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr("fastlane_rag.index.ingestion.CHUNK", 10)
    monkeypatch.setattr(recode, "GROWTH", 2)
    found = []
    for name in ("one", "two"):
        with FastLaneIndex.create(tmp_path / name, model=WordModel()) as index:
            index.ingest(Document(str(i), text) for i, text in enumerate(texts(0, 200)))
            assert index.stats().upkeep == "done"
            with index._storage.view() as view:
                found.append([part.codec for part in view.snapshot.parts])
    assert found[0] == found[1]
    assert all(codec.startswith("residual4") for codec in found[0])


def test_a_small_ingest_leaves_a_large_step_to_the_background(index, training):
    index.add(texts(0, 30), names(0, 30))
    index.ingest([Document("x", " ".join(texts(0, 4)))])
    assert training.begun.wait(SECONDS)
    assert index.stats().upkeep == "running"


def test_another_writer_does_not_wait_for_training(tmp_path, training):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        cross_the_threshold(index, training)
        with FastLaneIndex.open(tmp_path / "index", model=WordModel(), timeout=0.5) as other:
            other.delete(["5"])
            assert other.stats().upkeep == "due"  # the other object is at it
            training.let_go()
        assert training.calls == 1
        index.optimize()
        assert len(index) == 39
        assert set(codecs(index)) == {"residual4"}


def test_another_writers_sweep_leaves_the_draft_alone(tmp_path, recoding):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        cross_the_threshold(index, recoding)
        other = FastLaneIndex.open(path, model=WordModel(), timeout=0.5)
        other.delete(["5"])  # the first write of an object sweeps
        other.close(wait=False)
        assert len(list((path / "segments").glob("*.draft"))) == 1
        recoding.let_go()
        index.optimize()
        assert recoding.calls == 1
        assert codecs(index) == ["residual4"]
        assert index.verify() == []
    assert not list((path / "segments").glob("*.draft"))


def test_the_background_waits_for_other_writers_as_long_as_it_takes(tmp_path, training):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel(), timeout=0) as index:
        cross_the_threshold(index, training)
        with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as other, other._storage.turn():
            training.let_go()
            time.sleep(0.2)
            assert index.stats().upkeep == "running"
        index.optimize()
        assert set(codecs(index)) == {"residual4"}
        assert training.calls == 1


def test_of_two_objects_that_train_at_once_one_codec_is_kept(tmp_path, training, monkeypatch):
    """Where the file system cannot lock directories, both train."""
    monkeypatch.setattr("fastlane_rag.storage.lock.FolderLock.take", lambda _: True)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as one, FastLaneIndex.open(path, model=WordModel()) as two:
        cross_the_threshold(one, training)
        two.add(["late"], ["late"])
        training.let_go()
        one.optimize()
        two.optimize()
        with one._storage.view() as view:
            assert len(view.reader.codecs()) == 1
        assert set(codecs(one)) == {"residual4"}
        assert one.verify() == []


def test_a_codec_of_documents_that_were_overwritten_meanwhile_is_not_kept(tmp_path, training):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        cross_the_threshold(index, training)
        FastLaneIndex.create(path, model=WordModel(), overwrite=True).close()
        training.let_go()
        index.optimize()
        with index._storage.view() as view:
            assert view.reader.codecs() == {}
        assert len(index) == 0


def test_close_waits_for_the_background(tmp_path, training):
    index = FastLaneIndex.create(tmp_path / "index", model=WordModel())
    cross_the_threshold(index, training)
    threading.Timer(0.05, training.let_go).start()
    index.close()
    with FastLaneIndex.open(tmp_path / "index", model=WordModel(), read_only=True) as again:
        assert again.stats().upkeep == "done"
        assert set(codecs(again)) == {"residual4"}


def test_close_does_not_wait_for_a_writer_that_the_background_waits_for(tmp_path, training, monkeypatch):
    monkeypatch.setattr(worker, "_PATIENCE_SECONDS", 0.1)
    path = tmp_path / "index"
    index = FastLaneIndex.create(path, model=WordModel(), timeout=0)
    cross_the_threshold(index, training)
    with FastLaneIndex.open(path, model=WordModel()) as other, other._storage.turn():
        training.let_go()
        index.close()
    with FastLaneIndex.open(path, model=WordModel()) as again:
        assert again.stats().upkeep == "due"
        assert len(again) == 40


def test_close_without_waiting_gives_the_work_up_and_the_next_write_begins_it_anew(tmp_path, recoding):
    path = tmp_path / "index"
    index = FastLaneIndex.create(path, model=WordModel())
    cross_the_threshold(index, recoding)
    index.close(wait=False)
    assert not any(thread.name == "fastlane-upkeep" for thread in threading.enumerate())
    assert not list((path / "segments").glob("*.draft"))
    with FastLaneIndex.open(path, model=WordModel()) as again:
        assert again.stats().upkeep == "due"
        recoding.let_go()
        again.add(texts(40, 41), names(40, 41))
        again.optimize()
        assert set(codecs(again)) == {"residual4"}
        assert sorted(again.ids(), key=int) == names(0, 41)


def test_an_index_that_is_dropped_ends_its_thread(index, tmp_path, training):
    dropped = FastLaneIndex.create(tmp_path / "dropped", model=WordModel())
    cross_the_threshold(dropped, training)
    del dropped
    gc.collect()
    assert not any(thread.name == "fastlane-upkeep" for thread in threading.enumerate())


def test_compact_ends_the_background_and_does_all_of_it(index, recoding):
    cross_the_threshold(index, recoding)
    index.delete(["3"])
    recoding.let_go()
    index.compact()
    assert codecs(index) == ["residual4"]
    assert (index.stats().dead, index.stats().upkeep) == (0, "done")
    assert len(index) == 39
    assert index.verify() == []


def test_writes_go_on_beside_compact(index, recoding):
    index.add(texts(0, 20), names(0, 20))
    index.add(texts(20, 25), names(20, 25))
    thread = threading.Thread(target=index.compact)
    thread.start()
    assert recoding.begun.wait(SECONDS)
    index.add(["late"], ["late"])
    index.delete(["4"])
    recoding.let_go()
    thread.join(SECONDS)
    assert sorted(index.ids()) == sorted([*names(0, 4), *names(5, 25), "late"])
    assert index.stats().segments == 2
    assert index.verify() == []


def test_save_copies_an_index_whose_codec_is_being_trained(index, tmp_path, training):
    cross_the_threshold(index, training)
    index.save(tmp_path / "copy")
    training.let_go()
    with FastLaneIndex.open(tmp_path / "copy", model=WordModel()) as copy:
        assert len(copy) == 40
        assert copy.verify() == []


def test_a_failure_in_the_background_is_shown_and_raised_by_optimize(index, monkeypatch, caplog):
    def fail(*_):
        raise StorageError("the disk is full")

    trained = recode._trained
    monkeypatch.setattr(recode, "_trained", fail)
    with caplog.at_level(logging.WARNING, "fastlane_rag"):
        index.add(texts(0, 30))
        index.add(texts(30, 40))
        index._upkeep.wait()
    assert "the disk is full" in caplog.text
    assert index.stats().upkeep == "failed: the disk is full"
    with pytest.raises(StorageError, match="the disk is full"):
        index.optimize()
    monkeypatch.setattr(recode, "_trained", trained)
    index.optimize()
    assert index.stats().upkeep == "done"
    assert set(codecs(index)) == {"residual4"}


def test_after_a_failure_writes_do_not_try_again_at_once(index, monkeypatch):
    tries = []

    def fail(*_):
        tries.append(1)
        raise ValueError("of any kind")

    monkeypatch.setattr(recode, "_trained", fail)
    for first in range(0, 60, 10):
        index.add(texts(first, first + 10))
        index._upkeep.wait()
    assert len(tries) == 1
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0)
    index._upkeep._not_before = 0
    index.add(["more"])
    index._upkeep.wait()
    assert len(tries) == 2


def test_an_interrupt_of_optimize_leaves_the_index_as_it_is(index, monkeypatch):
    trained = recode._trained
    monkeypatch.setattr(worker.Upkeep, "_start", lambda _: None)
    index.add(texts(0, 30))
    index.add(texts(30, 40))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recode, "_trained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        index.optimize()
    monkeypatch.setattr(recode, "_trained", trained)
    index.add(["more"])
    index.optimize()
    assert set(codecs(index)) == {"residual4"}
    assert len(index) == 41


def test_optimize_needs_the_right_to_write(tmp_path):
    FastLaneIndex.create(tmp_path / "index", model=WordModel()).close()
    with (
        FastLaneIndex.open(tmp_path / "index", model=WordModel(), read_only=True) as index,
        pytest.raises(IndexReadOnlyError),
    ):
        index.optimize()


@forks
def test_a_forked_child_starts_over(tmp_path, training):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        cross_the_threshold(index, training)
        child = os.fork()
        training.let_go()
        if child == 0:
            try:
                assert index.search("word5 of many", k=1)[0].id == "5"
                index.add(texts(40, 41), names(40, 41))
                index.optimize()
                assert set(codecs(index)) == {"residual4"}
                index.close()
                os._exit(0)
            finally:
                os._exit(1)
        index.optimize()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert index.verify() == []
        assert len(index) == 41
        with index._storage.view() as view:
            assert len(view.reader.codecs()) == 1


@forks
def test_a_process_that_dies_in_mid_step_loses_nothing(tmp_path, recoding):
    path = tmp_path / "index"
    FastLaneIndex.create(path, model=WordModel()).close()
    child = os.fork()
    if child == 0:
        index = FastLaneIndex.open(path, model=WordModel())
        cross_the_threshold(index, recoding)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list((path / "segments").glob("*.draft"))) == 1
    recoding.let_go()
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert index.verify() == []
        assert len(index) == 40
        index.delete(["0"])
        index.optimize()
        assert set(codecs(index)) == {"residual4"}
    assert not list((path / "segments").glob("*.draft"))


def test_a_program_may_end_while_the_background_works(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from word_model import WordModel\n"
        "from fastlane_rag import FastLaneIndex\n"
        "from fastlane_rag.upkeep import recode, worker, write\n"
        "recode.TRAIN_TOKENS, worker.FOREGROUND_BYTES, write.SMALL_BYTES = 20_000, 0, 0\n"
        "index = FastLaneIndex.create(sys.argv[2], model=WordModel())\n"
        "index.add([f'word{i} ' * 20 for i in range(900)])\n"
        "index.add([f'other{i} ' * 20 for i in range(200)])\n"
    )
    arguments = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "index")]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as index:
        assert len(index) == 1100
        assert index.verify() == []


def test_writers_in_threads_beside_the_background(index, monkeypatch):
    """Writes of four threads, with small steps at once and large ones beside them: every document is there once."""
    monkeypatch.setattr("fastlane_rag.upkeep.merge.FAN", 3)
    monkeypatch.setattr(recode, "GROWTH", 2)
    monkeypatch.setattr("fastlane_rag.upkeep.write.SMALL_BYTES", 500)
    monkeypatch.setattr("fastlane_rag.upkeep.merge.PENDING_BYTES", 1000)
    failed = []

    def write(thread):
        try:
            for i in range(0, 60, 4):
                ids = [f"{thread}-{n}" for n in range(i, i + 4)]
                index.add([f"word{n} of {thread}" for n in range(i, i + 4)], ids)
                index.delete([ids[0]])
                assert len(index.search(f"word{i + 1} of {thread}", k=3)) == 3
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    index.optimize()
    assert sorted(index.ids()) == sorted(f"{thread}-{n}" for thread in range(4) for n in range(60) if n % 4)
    assert index.verify() == []
    assert set(codecs(index)) == {"residual4"}
