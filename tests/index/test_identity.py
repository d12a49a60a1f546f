"""An index object works on the directory that it opened, or raises an error."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError, IndexFormatError, IndexNotFoundError, IndexReplacedError, StorageError
from fastlane_rag.upkeep.verify import verify

TEXTS = [f"word{i} of many" for i in range(60)]


def build(path: Path, texts: list[str], small: bool = False) -> None:
    with FastLaneIndex.create(path, model=WordModel()) as index:
        for first in range(0, len(texts), 10 if small else len(texts)):
            index.add(texts[first : first + 10 if small else len(texts)])


def contents(path: Path) -> list[str]:
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
        return sorted(document.text for document in index.get(index.ids()))


def put_beside(path: Path, way: str) -> None:
    """Replace an open index by another one at the same path."""
    if way == "rmtree":
        while path.exists():  # a reader may make a file of SQLite's in it meanwhile
            shutil.rmtree(path, ignore_errors=True)
        build(path, TEXTS)
    else:
        build(path.with_name("new"), TEXTS)
        path.rename(path.with_name("old"))
        path.with_name("new").rename(path)


@pytest.mark.parametrize("way", ["rmtree", "swap"])
def test_a_writer_never_writes_into_another_index(tmp_path, small_limits, way):
    path = tmp_path / "index"
    build(path, ["old words"] * 12, small=True)
    index = FastLaneIndex.open(path, model=WordModel())
    index.add(["mine"])
    put_beside(path, way)
    for method, arguments in (("add", [["late"]]), ("add", [TEXTS]), ("delete", [["a"]]), ("compact", [])):
        with pytest.raises(IndexReplacedError, match=r"was replaced by another one .* open the index again"):
            getattr(index, method)(*arguments)
    with pytest.raises(IndexReplacedError):
        index.update_metadata(["a"], [{}])
    index.close()
    del index
    gc.collect()
    assert contents(path) == sorted(TEXTS)
    assert verify(path) == []
    with FastLaneIndex.open(path, model=WordModel()) as again:  # the new index has a writer's lock of its own
        again.add(["new"])
    assert contents(path) == sorted([*TEXTS, "new"])
    assert verify(path) == []


@pytest.mark.parametrize("way", ["rmtree", "swap"])
def test_readers_answer_from_one_index_or_not_at_all(tmp_path, way):
    path = tmp_path / "index"
    build(path, ["old words"] * 40)
    index = FastLaneIndex.open(path, model=WordModel(), read_only=True)
    found: list[object] = []

    def read() -> None:
        for _ in range(40):
            try:
                found.append({hit.text for hit in index.search("words", k=9)})
            except FastLaneError as error:
                found.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    put_beside(path, way)
    for thread in threads:
        thread.join()
    errors = [one for one in found if isinstance(one, FastLaneError)]
    assert all(one == {"old words"} for one in found if isinstance(one, set))
    # While the directory goes file by file, SQLite may miss one of its own first.
    assert len(found) == 8 * 40, "an error that is none of ours"
    assert any(isinstance(error, IndexReplacedError) for error in errors) or not errors
    for read_on in (lambda: index.search("words"), lambda: len(index), index.stats, lambda: index.get(index.ids())):
        with pytest.raises(IndexReplacedError):
            read_on()
    index.close()
    assert contents(path) == sorted(TEXTS)


@pytest.mark.parametrize("way", ["deleted", "moved"])
def test_a_directory_that_is_gone(tmp_path, way):
    path = tmp_path / "index"
    build(path, ["old words"])
    index = FastLaneIndex.open(path, model=WordModel())
    if way == "deleted":
        shutil.rmtree(path)
    else:
        path.rename(tmp_path / "elsewhere")
    for use in (lambda: index.add(["late"]), lambda: index.search("late"), lambda: len(index)):
        assert "cannot be read" in repr(index)
        with pytest.raises(IndexReplacedError, match="was moved or deleted"):
            use()
    index.close()
    assert not path.exists()
    if way == "moved":
        assert contents(tmp_path / "elsewhere") == ["old words"]


@pytest.mark.parametrize("name", ["writer.lock", "commits", "catalogue.sqlite3", "catalogue.sqlite3-wal"])
@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling link"])
def test_nothing_outside_is_written(tmp_path, name, dangling):
    """A stranger's directory may hold links to files of ours."""
    path, victim = tmp_path / "index", tmp_path / "victim"
    build(path, ["old words"])
    if not dangling:
        victim.write_text("precious")
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(victim)
    with pytest.raises(FastLaneError), FastLaneIndex.open(path, model=WordModel()) as index:
        index.add(["late"])
    # To overwrite, links may be replaced by files.
    with suppress(FastLaneError), FastLaneIndex.create(path, model=WordModel(), overwrite=True) as index:
        index.add(["late"])
    assert dangling or victim.read_text() == "precious"
    assert victim.exists() != dangling


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this platform")
@pytest.mark.parametrize("name", ["writer.lock", "commits", "catalogue.sqlite3", "segments"])
def test_a_pipe_in_the_place_of_a_file_hangs_nobody(tmp_path, name):
    path = tmp_path / "index"
    build(path, ["old words"])
    shutil.rmtree(path / name) if name == "segments" else (path / name).unlink()
    os.mkfifo(path / name)
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from word_model import WordModel
from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError
try:
    with FastLaneIndex.open({str(path)!r}, model=WordModel()) as index:
        index.add(["late"])
except FastLaneError as error:
    print("REFUSED", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "REFUSED" in done.stdout
    assert str(path) in done.stdout


def test_an_endless_marker_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "index"
    build(path, ["old words"])
    (path / "commits").write_bytes(b"0" * (1 << 20))
    with pytest.raises(IndexFormatError, match="more than the 4096 bytes"):
        FastLaneIndex.open(path, model=WordModel())


def test_an_index_without_its_empty_folder(tmp_path):
    """git and object stores keep no empty directories."""
    path = tmp_path / "index"
    build(path, ["old words"])
    (path / "segments").rmdir()
    with FastLaneIndex.open(path, model=WordModel()) as index:
        assert index.search("words")[0].text == "old words"
        index.add(TEXTS)
        index.compact()
        assert index.verify() == []
    with pytest.raises(IndexNotFoundError):
        FastLaneIndex.open(tmp_path / "absent", model=WordModel())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
def test_interrupts_leave_an_index_that_works(tmp_path):
    """Ctrl-C at any instant of a read or a write. Afterwards reads and writes work as before."""
    path = tmp_path / "index"
    build(path, TEXTS)
    index = FastLaneIndex.open(path, model=WordModel())
    interrupted = 0
    for n in range(300):
        # Again and again: Python drops what is raised in a finalizer.
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + n * 7e-6, 0.02)
        try:
            while True:
                len(index), index.get(index.ids()[:2]), index.delete(["absent"])
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert interrupted == 300
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as reader:
        index.add(["late"], ["late"])
        assert "late" in reader
        assert len(reader) == len(index) == len(TEXTS) + 1
        with ThreadPoolExecutor(1) as pool:  # no lock is held for ever
            assert pool.submit(index.search, "word5").result(timeout=20)
            assert pool.submit(index.add, ["later"], ["later"]).result(timeout=20) == ["later"]
    index.close()
    assert contents(path) == sorted([*TEXTS, "late", "later"])
    assert verify(path) == []


@pytest.fixture(autouse=True)
def alarm_is_ctrl_c():
    """SIGALRM does what Ctrl-C does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler) if hasattr(signal, "SIGALRM") else None
    yield
    if before is not None:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this platform")
def test_a_long_filter_can_be_interrupted(tmp_path):
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add([f"word{i}" for i in range(3000)], metadatas=[{"a": i} for i in range(3000)])
        slow = {"$and": [{"a": {"$gte": -i}} for i in range(2600)]}
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.process_time()
        with pytest.raises(KeyboardInterrupt):
            index.ids(slow)
        assert time.process_time() - start < 2
        assert len(index.ids({"a": {"$lt": 5}})) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks of POSIX")
def test_a_write_whose_log_was_taken_away_is_not_acknowledged(tmp_path):
    """Reading the index's files, as a backup does, drops this process's locks on them, which are POSIX's."""
    path, copy = tmp_path / "index", tmp_path / "copy"
    other = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM documents").fetchone()[0])
connection.close()
"""
    with FastLaneIndex.create(path, model=WordModel()) as index, FastLaneIndex.open(path, model=WordModel()) as reader:
        index.add([f"word{i}" for i in range(20)], ids=[str(i) for i in range(20)])
        assert len(reader) == 20
        index.save(copy)
        index.add(["after the copy"], ids=["20"])
        for file in path.iterdir():
            if file.is_file():
                file.read_bytes()
        catalogue = str(path / "catalogue.sqlite3")
        done = subprocess.run([sys.executable, "-c", other, catalogue], capture_output=True, text=True, check=True)
        assert done.stdout == "21\n"
        for _ in range(2):
            with pytest.raises(StorageError, match=r"catalogue.sqlite3-wal, .* was deleted.* save\(\) makes a copy"):
                index.add(["lost"], ids=["lost"])
        with pytest.raises(StorageError, match="was deleted"):
            reader.search("word1")
    script = """
import sys
sys.path.insert(0, sys.argv[2])
from word_model import WordModel
from fastlane_rag import FastLaneIndex
index = FastLaneIndex.open(sys.argv[1], model=WordModel())
index.add(["new"], ids=["new"])
print(len(index), index.verify(), "lost" in index)
"""
    command = [sys.executable, "-c", script, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "22 [] False\n"
    with FastLaneIndex.open(copy, model=WordModel()) as saved:
        assert len(saved) == 20
