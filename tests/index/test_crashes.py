"""kill -9 at random instants: what is reopened is the state before the interrupted write or after it."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash_worker import expected, operation, read_contents
from word_model import WordModel, exact_score

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexNotFoundError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
WORKER = Path(__file__).with_name("crash_worker.py")


@dataclass
class Trials:
    """Counts of what a series of kills hit."""

    steps: int = 0
    """Operations that were committed."""
    documents: int = 0
    """Documents that these operations added or replaced."""
    before_commit: int = 0
    """Kills that undid an operation which would have changed the contents."""
    after_commit: int = 0
    """Kills between an operation's commit and its return."""


@pytest.fixture
def worker():
    with subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.stdin.close()


def interrupted(worker, path, seed, step, delay) -> tuple[list[int], list[int]]:
    """Let a child write from this step on, and kill it after `delay` seconds. Returns the steps begun and ended."""
    worker.stdin.write(f"{path} {seed} {step}\n")
    begun, ended, child, killed = [], [], 0, False
    while (line := worker.stdout.readline().strip()) != "gone":
        word, _, number = line.partition(" ")
        assert word in ("child", "begin", "end"), line
        {"child": [], "begin": begun, "end": ended}[word].append(int(number) if word != "child" else 0)
        if word == "child":
            child = int(number)
        if child and begun and not killed:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            killed = True
    return begun, ended


def run_trials(worker, path, trials, seed, codec="fp16"):
    chance = random.Random(seed)
    with FastLaneIndex.create(path, model=WordModel(), codec=codec):
        pass
    # So few documents are searched exhaustively, so none is missed. A row that was written by one codec and again by
    # the next is rounded twice: up to .03 a query token.
    error = 1e-3 if codec == "fp16" else 0.1
    contents, hit = {}, Trials()
    mean_delay = 0.06

    def carried_out(number):
        kind, argument = operation(seed, number, contents)
        hit.steps = number + 1
        hit.documents += len(argument) if kind == "add" else 0
        return expected(contents, kind, argument)

    for trial in range(4 * trials):
        if trial >= trials and hit.before_commit:  # a busy machine may take longer to hit one
            break
        begun, ended = interrupted(worker, path, seed, hit.steps, chance.expovariate(1 / mean_delay))
        assert begun[0] == hit.steps
        mean_delay = max(0.06, mean_delay / 1.2) if ended else mean_delay * 1.5  # a busy machine takes longer
        for number in ended:
            contents = carried_out(number)
        with FastLaneIndex.open(path, model=WordModel(), read_only=chance.random() < 0.5) as index:
            assert index.verify() == []
            found = read_contents(index)
            if found != contents:
                assert begun[-1] == hit.steps, "no operation was going on, and yet the contents differ"
                contents = carried_out(begun[-1])
                hit.after_commit += 1
            elif len(begun) > len(ended):
                undone = expected(contents, *operation(seed, begun[-1], contents))
                hit.before_commit += undone != contents
            assert found == contents
            assert list(found) == list(contents)
            if contents and chance.random() < 0.3:
                best = max(exact_score("w1 w2 w3", text) for text, _ in contents.values())
                assert index.search("w1 w2 w3", k=1)[0].score == pytest.approx(best, abs=error)
                assert index.search("w1 w2 w3", k=1, lane="vector")[0].score == pytest.approx(best, abs=error)
    leftovers = {file.suffix for file in (path / "segments").iterdir()} - {".safetensors", ".draft"}
    assert not leftovers
    with FastLaneIndex.open(path, model=WordModel()) as index:
        index.add(["the last word"], ids=["last"])
        index.compact()
        assert len(list((path / "segments").iterdir())) == 1
        assert len(index) == len(contents | {"last": None})
    print(hit)
    return hit


def test_killed_at_random_instants(worker, tmp_path):
    hit = run_trials(worker, tmp_path / "index", trials=25, seed=1)
    assert hit.steps > 15
    assert hit.documents > 50
    assert hit.before_commit > 0


def test_killed_at_random_instants_while_codecs_are_trained_and_replaced(worker, tmp_path):
    hit = run_trials(worker, tmp_path / "index", trials=25, seed=11, codec="residual8")
    assert hit.steps > 10
    assert hit.documents > 50
    assert hit.before_commit > 0
    with sqlite3.connect(tmp_path / "index" / "catalogue.sqlite3") as catalogue:
        assert catalogue.execute("SELECT max(codec) FROM codecs").fetchone()[0] > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_killed_at_many_random_instants(worker, tmp_path, seed):
    hit = run_trials(worker, tmp_path / "index", trials=100, seed=seed)
    assert hit.steps > 50
    assert hit.documents > 200
    assert hit.before_commit > 10
    assert hit.after_commit > 0


@pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after the commit"])
def test_killed_at_the_commit(tmp_path, committed):
    """The process that adds is killed just before, or just after, the transaction with its documents commits."""
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add(["first word"], ids=["first"])
    child = os.fork()
    if child == 0:
        try:
            die_at_the_commit(path, committed)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself: it did not reach the commit"
    assert os.WTERMSIG(status) == signal.SIGKILL
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert index.ids() == (["first", "second"] if committed else ["first"])
        assert index.verify() == []


def die_at_the_commit(path, committed):
    """Add a document; kill the own process at the end of its transaction. Runs in a child of its own."""
    from fastlane_rag.storage.catalogue import Catalogue

    index = FastLaneIndex.open(path, model=WordModel())
    writing = Catalogue.writing

    @contextmanager
    def deadly(self):
        with writing(self) as catalogue:
            yield catalogue
            if not committed:
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    Catalogue.writing = deadly
    index.add(["second word"], ids=["second"])


def test_killed_while_creating(tmp_path):
    """An unfinished index does not open as an index, and can be created again."""
    delays = [0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, None]  # None: until the child has created it
    created = []
    from fastlane_rag.storage import creation  # noqa: F401  (imported before the fork, so that the delays hit the work)

    for i, delay in enumerate(delays):
        path = tmp_path / f"index{i}"
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                FastLaneIndex.create(path, model=WordModel())
                os.write(into, b"created")
                time.sleep(10)
            finally:
                os._exit(1)
        os.close(into)
        if delay is None:
            assert os.read(out, 10) == b"created"
        else:
            time.sleep(delay)
        os.close(out)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            FastLaneIndex.open(path, model=WordModel()).close()
            created.append(True)
        except IndexNotFoundError:
            FastLaneIndex.create(path, model=WordModel()).close()
            created.append(False)
        with FastLaneIndex.open(path, model=WordModel()) as index:
            index.add(["works"], ids=["w"])
            assert index.ids() == ["w"]
            assert index.verify() == []
    assert created[-1], "the index was created, and is lost"
    assert not all(created), "no kill came before the end"


def test_a_segment_is_on_the_disk_before_the_commit_that_names_it(tmp_path, monkeypatch, small_limits):
    """fsync of the file, then its rename, then fsync of the directory, then the commit."""
    from fastlane_rag.storage import folder
    from fastlane_rag.storage.catalogue import Catalogue

    events = []
    fsync, rename, writing = os.fsync, os.rename, Catalogue.writing

    def noted_fsync(fd):
        events.append("sync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync draft")
        fsync(fd)

    def noted_rename(*names, **handles):
        events.append("rename")
        return rename(*names, **handles)

    def noted_writing(self):
        events.append("commit")
        return writing(self)

    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        monkeypatch.setattr(folder.os, "fsync", noted_fsync)
        monkeypatch.setattr(folder.os, "rename", noted_rename)
        monkeypatch.setattr(Catalogue, "writing", noted_writing)
        index.add([f"word{i} " * 9 for i in range(9)])
    assert events[:4] == ["sync draft", "rename", "sync directory", "commit"]
