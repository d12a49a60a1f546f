"""One writer, many readers: threads, processes, forks and pickles."""

import gc
import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from word_model import WordModel, exact_score

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexLockedError, InvalidInputError
from fastlane_rag.model.default import default_model_path
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.types import Document

HERE = Path(__file__).parent


def run_child(code: str, *arguments: str) -> str:
    """Run Python code in a process of its own and return what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    prelude = "import sys\nfrom word_model import WordModel\nfrom fastlane_rag import FastLaneIndex\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Waiting:
    """Documents for `ingest`, which then goes on until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Document]:
        self.begun.set()
        assert self.end.wait(60)
        yield Document("late", "late")


@contextmanager
def writing(index: FastLaneIndex) -> Iterator[None]:
    """Write from another thread for the whole block."""
    stream = Waiting()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(index.ingest, stream)
        assert stream.begun.wait(20)
        try:
            yield
        finally:
            stream.end.set()
        done.result(timeout=20)


def test_a_second_writer_waits_and_is_told_who_writes(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as writer:
        writer.add(["first"], ids=["1"])
        with writing(writer):
            with FastLaneIndex.open(path, model=word_model, timeout=0.2) as other:
                begin = time.monotonic()
                with pytest.raises(IndexLockedError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
                    other.add(["second"])
                assert time.monotonic() - begin >= 0.2
                for method, arguments in (("delete", [["1"]]), ("compact", []), ("update_metadata", [["1"], [{}]])):
                    with pytest.raises(IndexLockedError, match=r"0\.2 s"):
                        getattr(other, method)(*arguments)
                with pytest.raises(IndexLockedError):
                    FastLaneIndex.create(path, model=word_model, overwrite=True, timeout=0)
                with (
                    pytest.raises(IndexLockedError),
                    FastLaneIndex.build(path, model=word_model, overwrite=True, timeout=0) as built,
                ):
                    built.add(["other"])
                assert other.ids() == ["1"]
            code = """
from fastlane_rag.errors import IndexLockedError
index = FastLaneIndex.open(sys.argv[1], model=WordModel(), timeout=0.1)
try:
    index.delete(["1"])
except IndexLockedError as error:
    print(error)
"""
            assert f"process {os.getpid()} on {socket.gethostname()}" in run_child(code, str(path))
            writer.add(["of another thread of the writer"])
        assert len(writer) == 3
        with FastLaneIndex.open(path, model=word_model) as other:
            other.add(["second"])
            writer.add(["third"])
            assert len(other) == len(writer) == 5


@pytest.mark.parametrize("timeout", [-1, None, "5", True, float("nan")])
def test_a_timeout_that_means_nothing_is_refused(tmp_path, word_model, timeout):
    with pytest.raises(InvalidInputError, match="timeout must be a number of seconds"):
        FastLaneIndex.create(tmp_path / "index", model=word_model, timeout=timeout)
    assert not (tmp_path / "index").exists()


def test_a_writer_that_writes_again_and_again_lets_others_have_their_turn(tmp_path, word_model):
    """Two objects here and two processes, each with writes one right after the other."""
    path = tmp_path / "index"
    FastLaneIndex.create(path, model=word_model).close()
    code = """
import time
index = FastLaneIndex.open(sys.argv[1], model=WordModel(), timeout=20)
end, written = time.monotonic() + 2, 0
while time.monotonic() < end:
    index.add([f"{sys.argv[2]} {written}"], ids=[f"{sys.argv[2]}-{written}"])
    written += 1
print(written)
"""

    def write(name: str) -> int:
        end, written = time.monotonic() + 2, 0
        with FastLaneIndex.open(path, model=word_model, timeout=20) as index:
            while time.monotonic() < end:
                index.add([f"{name} {written}"], ids=[f"{name}-{written}"])
                written += 1
        return written

    with ThreadPoolExecutor(4) as pool:
        children = [pool.submit(run_child, code, str(path), name) for name in "ab"]
        here = [pool.submit(write, name) for name in "cd"]
        written = [int(one.result()) for one in children] + [one.result() for one in here]
    assert min(written) > 0
    with FastLaneIndex.open(path, model=word_model) as index:
        assert len(index) == sum(written)
        assert index.verify() == []


def test_a_notebook_cell_runs_twice(tmp_path, word_model):
    """The object of the first run is still there, idle."""
    path = tmp_path / "index"
    kept = []
    for run in (1, 2, 3):
        with FastLaneIndex.build(path, model=word_model, overwrite=True) as index:
            index.add([f"text of run {run}"], ids=["a"])
        kept.append(index)
        assert [one.get(["a"])[0].text for one in kept] == [f"text of run {run}"] * run
    kept[0].add(["more"], ids=["b"])
    assert kept[2].ids() == ["a", "b"]


def test_an_index_that_is_dropped_gives_the_lock_back(tmp_path, word_model):
    FastLaneIndex.create(tmp_path / "index", model=word_model).add(["x"])
    gc.collect()
    with FastLaneIndex.open(tmp_path / "index", model=word_model) as index:
        index.add(["y"])
        assert len(index) == 2


def test_closing_leaves_no_log_even_when_readers_stay(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as index:
        index.add(["x"], ids=["x"])
        with FastLaneIndex.open(path, model=word_model, read_only=True) as reader:
            assert reader.ids() == ["x"]
            index.close()
            assert (path / "catalogue.sqlite3-wal").stat().st_size == 0
            assert reader.ids() == ["x"]


def test_a_dead_writer_leaves_no_lock(tmp_path, word_model):
    path = tmp_path / "index"
    code = """
import os
index = FastLaneIndex.create(sys.argv[1], model=WordModel())
index.add(["from the dead"], ids=["d"])
os._exit(0)
"""
    run_child(code, str(path))
    with FastLaneIndex.open(path, model=word_model) as index:
        index.add(["from the living"], ids=["l"])
        assert index.ids() == ["d", "l"]


def test_readers_in_other_processes_pick_up_commits(tmp_path, word_model):
    path = tmp_path / "index"
    code = """
index = FastLaneIndex.open(sys.argv[1], model=WordModel(), read_only=True)
for line in sys.stdin:
    print([hit.id for hit in index.search(line, k=9)], index.ids({"n": {"$gt": 0}}), flush=True)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    prelude = "import sys\nfrom word_model import WordModel\nfrom fastlane_rag import FastLaneIndex\n"
    with FastLaneIndex.create(path, model=word_model) as writer:
        writer.add(["a b"], ids=["1"])
        with subprocess.Popen(
            [sys.executable, "-c", prelude + code, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as reader:

            def ask(query):
                reader.stdin.write(query + "\n")
                reader.stdin.flush()
                return reader.stdout.readline().strip()

            assert ask("a") == "['1'] []"
            writer.add(["a", "c"], ids=["2", "3"], metadatas=[{"n": 1}, {"n": 0}])
            assert ask("a b") == "['1', '2', '3'] ['2']"
            writer.delete(["1"])
            writer.compact()
            writer.update_metadata(["3"], [{"n": 5}])
            assert ask("c") == "['3', '2'] ['2', '3']"
            reader.stdin.close()
            assert reader.wait(30) == 0


def test_threads_read_consistent_commits_while_one_writes(index, small_limits):
    """Every search must see one commit: all documents of a generation, or all of the next one."""
    count, generations = 12, 25
    ids = [f"{i:02}" for i in range(count)]
    index.add([f"word{i} g0" for i in range(count)], ids=ids, metadatas=[{"g": 0}] * count)
    stop = threading.Event()
    seen: list[set] = []

    def read():
        while not stop.is_set():
            hits = index.search("word3 word5", k=count)
            seen.append({hit.metadata["g"] for hit in hits} | {int(hit.text.rpartition("g")[2]) for hit in hits})
            assert len(hits) == count
            for hit in hits[:2]:
                assert hit.score == pytest.approx(exact_score("word3 word5", hit.text), abs=1e-4)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for generation in range(1, generations):
                texts = [f"word{i} g{generation}" for i in range(count)]
                index.add(texts, ids=ids, metadatas=[{"g": generation}] * count)
                if generation % 8 == 0:
                    index.compact()
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert seen
    assert all(len(generation) == 1 for generation in seen)
    assert index.verify() == []


def test_threads_may_all_write(index, small_limits):
    def write(worker):
        for i in range(8):
            index.add([f"worker{worker} step{i}"], ids=[f"{worker}-{i}"])
            if i % 3 == 2:
                index.delete([f"{worker}-{i - 1}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    expected = {f"{w}-{i}" for w in range(4) for i in range(8) if i not in (1, 4)}
    assert set(index.ids()) == expected
    assert index.search("worker2 step7", k=1)[0].id == "2-7"
    assert index.verify() == []


def test_a_text_kept_by_an_upsert_survives_its_deletion_meanwhile(index, word_model):
    """An unchanged text is not encoded, unless another thread deletes it meanwhile."""
    index.add(["kept text"], ids=["k"])
    encode = word_model.encode_documents

    def deleting(texts, **options):
        if texts == ["new text"]:
            index.delete(["k"])
        return encode(texts, **options)

    word_model.encode_documents = deleting
    index.add(["kept text", "new text"], ids=["k", "n"])
    assert {hit.id for hit in index.search("kept text", k=5)} == {"k", "n"}
    assert index.search("kept text", k=1)[0].score == pytest.approx(2.0, abs=1e-3)
    assert index.verify() == []


def test_pickling_reopens_by_path(tmp_path, word_model):
    with FastLaneIndex.create(tmp_path / "index", model=word_model) as index:
        index.add(["red", "blue"], ids=["r", "b"])
        with pickle.loads(pickle.dumps(index)) as copy:
            assert copy.path == index.path
            assert copy.search("red", k=1)[0].id == "r"
            index.add(["green"], ids=["g"])
            assert copy.search("green", k=1)[0].id == "g"


def test_a_pickled_index_keeps_what_it_was_opened_with(tmp_path, word_model):
    """It searched by the default policy, and waited thirty seconds for other writers."""
    policy = SearchPolicy(route_k=1)
    with FastLaneIndex.create(tmp_path / "index", model=word_model, policy=policy, timeout=0.05) as index:
        index.add(["red"])
        with pickle.loads(pickle.dumps(index)) as copy, writing(index):
            assert copy.policy == policy
            with pytest.raises(IndexLockedError, match=r"0\.05 s"):
                copy.add(["blue"])


def test_a_pickled_index_finds_its_models_folder_from_other_directories(tmp_path, monkeypatch):
    """Workers of Ray start in directories of their own."""
    (tmp_path / "model").symlink_to(default_model_path())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with FastLaneIndex.create("index", model="model") as index:
        index.add(["Cats purr."], ids=["cat"])
        monkeypatch.chdir("elsewhere")
        with pickle.loads(pickle.dumps(index)) as copy:
            assert copy.search("cats", k=1)[0].id == "cat"


def test_a_forked_child_that_leaves_a_build_block_leaves_it_to_its_parent(tmp_path):
    """It removed what the parent was building."""
    code = """
import os
how = sys.argv[2]
with FastLaneIndex.build(sys.argv[1], model=WordModel(), overwrite=True) as index:
    index.add(["one"], ids=["1"])
    child = os.fork()
    if child == 0 and how == "exit":
        sys.exit(3)
    if child == 0 and how == "error":
        raise RuntimeError
    if child:
        _, status = os.waitpid(child, 0)
        index.add(["two"], ids=["2"])
print(status != 0, sorted(index), index.verify())
"""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    for how in ("exit", "error", "end"):
        assert run_child(code, str(tmp_path / "index"), how) == "True ['1', '2'] []"
        assert [one.name for one in tmp_path.iterdir()] == ["index"]


def test_what_is_no_text_is_no_id(index):
    assert "\ud800" not in index
    assert None not in index


def test_pickling_an_index_in_memory_explains_itself(word_model):
    with FastLaneIndex.create(model=word_model) as index, pytest.raises(TypeError, match=r"in-memory.*path"):
        pickle.dumps(index)


def answer(index: FastLaneIndex, query: str) -> list[str]:
    return [hit.id for hit in index.search(query, k=2)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_open_index_travels_to_other_processes(tmp_path, word_model, method):
    with FastLaneIndex.create(tmp_path / "index", model=word_model) as index:
        index.add(["red", "blue", "green"], ids=["r", "b", "g"])
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.starmap(answer, [(index, "red"), (index, "green")]) == [
                answer(index, "red"),
                answer(index, "green"),
            ]


FORK = """
import os, json, threading, time
from fastlane_rag.errors import FastLaneError
path = sys.argv[1] or None
index = FastLaneIndex.create(path, model=WordModel())
index.add(["red rose", "blue sea"], ids=["r", "b"])
stop = threading.Event()
def busy():
    while not stop.is_set():
        index.ids(); len(index)
thread = threading.Thread(target=busy); thread.start()
failures = []
for round in range(20):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = index.ids()
            try:
                index.delete(["r"])
                found.append("wrote")
            except FastLaneError as error:
                found.append(type(error).__name__)
            os.write(into, json.dumps(found).encode())
        except BaseException as error:
            os.write(into, repr(error).encode())
        os._exit(0)
    os.close(into)
    text = os.read(out, 4096).decode()
    os.close(out)
    os.waitpid(child, 0)
    print(text)
stop.set(); thread.join()
index.add(["green leaf"], ids=["g"])
print(json.dumps(index.ids()), index.verify())
index.close()
if path:
    with FastLaneIndex.open(path, model=WordModel()) as again:
        again.delete(["g"])
        print(again.ids())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_reads_and_writes_and_so_does_its_parent(tmp_path):
    *children, parent, heir = run_child(FORK, str(tmp_path / "index")).splitlines()
    assert [json.loads(line) for line in children] == [["r", "b", "wrote"]] + [["b", "wrote"]] * 19
    assert parent == '["b", "g"] []'
    assert heir == "['b']"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_of_an_index_in_memory_has_its_own_copy():
    *children, parent = run_child(FORK, "").splitlines()
    assert [json.loads(line) for line in children] == [["r", "b", "wrote"]] * 20
    assert parent == '["r", "b", "g"] []'


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path, word_model):
    code = """
import os, time
index = FastLaneIndex.create(sys.argv[1], model=WordModel())
index.add(["x"], ids=["x"])
child = os.fork()
if child == 0:
    os.close(1); os.close(2)
    time.sleep(20)
    os._exit(0)
print(child, flush=True)
os._exit(0)
"""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    child = int(run_child(code, str(tmp_path / "index")))
    try:
        with FastLaneIndex.open(tmp_path / "index", model=word_model) as index:
            index.add(["y"], ids=["y"])
            assert index.ids() == ["x", "y"]
    finally:
        os.kill(child, 9)


def test_a_reader_keeps_working_when_compaction_removes_its_files(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as writer:
        writer.add([f"w{i} " * 200 for i in range(400)], ids=[str(i) for i in range(400)])
        with FastLaneIndex.open(path, model=word_model, read_only=True) as reader, reader._storage.view() as view:
            writer.delete([str(i) for i in range(300)])
            writer.compact()
            [part] = view.snapshot.parts
            assert part.documents == 400
            assert part.source.rows(0, 1).shape == (1, 16)
            assert view.reader.has("0")
        assert len(reader.path.name) > 0


def test_searches_do_not_wait_for_a_long_write(tmp_path, word_model):
    with FastLaneIndex.create(tmp_path / "index", model=word_model) as index:
        index.add(["quick"], ids=["q"])
        encode, started, go_on = word_model.encode_documents, threading.Event(), threading.Event()

        def slow(texts, **options):
            started.set()
            assert go_on.wait(30)
            return encode(texts, **options)

        word_model.encode_documents = slow
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(index.add, ["slow"], ["s"])
            assert started.wait(30)
            begin = time.perf_counter()
            assert [hit.id for hit in index.search("slow", k=5)] == ["q"]
            assert index.delete(["absent"]) == 0
            assert time.perf_counter() - begin < 5
            go_on.set()
            assert adding.result() == ["s"]
        assert index.search("slow", k=1)[0].id == "s"


assert WordModel  # the children import it by name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_encodes_and_searches_at_once(tmp_path):
    """With the real model and two threads: OpenMP's threads do not survive a fork, and torch would wait for them."""
    program = """
import os
from fastlane_rag import FastLaneIndex

index = FastLaneIndex.create()
index.add([f"text number {n} about cats" for n in range(40)])
index.search_batch(["cats"] * 8)
child = os.fork()
if child == 0:
    os._exit(0 if index.search("cats") and index.model.encode_documents(["dogs"] * 40) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=False).returncode == 0


def test_a_reader_that_is_overtaken_for_ever_says_so(tmp_path, monkeypatch):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(["some words"])
        monkeypatch.setattr(type(index._storage), "_current", lambda *_, **__: None)
        with pytest.raises(IndexLockedError, match="overtook this reader"):
            index.search("words")


def test_verify_goes_on_with_a_later_commit_that_removed_a_segment_before_it_was_opened(
    tmp_path, word_model, monkeypatch, small_limits
):
    from fastlane_rag.upkeep import verify as module

    opened = []

    def overtaken(*arguments):
        if not opened:
            writer.compact()
        opened.append(arguments)
        return segment(*arguments)

    segment = module.Segment
    with FastLaneIndex.create(tmp_path / "index", model=word_model) as writer:
        for start in (0, 100, 200):
            writer.add([f"word{start + i} of many" for i in range(100)])
        monkeypatch.setattr(module, "Segment", overtaken)
        assert module.verify(tmp_path / "index") == []
        assert len(opened) > writer.stats().segments == 1


@pytest.mark.skipif(os.name == "nt", reason="rights of a POSIX file system")
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_all_files_have_the_rights_that_the_umask_leaves(tmp_path, word_model, small_limits, mask):
    before = os.umask(mask)
    try:
        with FastLaneIndex.create(tmp_path / "index", model=word_model) as index:
            index.add([f"word{i} of many" for i in range(100)])
            files = [*tmp_path.rglob("*")]
            modes = {path.name: path.stat().st_mode & 0o777 for path in files}
    finally:
        os.umask(before)
    assert len(files) >= 7
    for path in files:
        assert modes[path.name] == (0o777 if path.is_dir() else 0o666) & ~mask, path
