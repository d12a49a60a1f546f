"""Files that are torn, flipped, missing, newer, or on a disk that refuses: detected and named, never served."""

import gc
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError, IndexFormatError, StorageError
from fastlane_rag.upkeep import write
from fastlane_rag.upkeep.verify import export, verify

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
FLIPS = int(os.environ.get("FASTLANE_TEST_FLIPS", "80"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An index with two segments, dead rows, pending rows and an indexed key."""
    path = tmp_path_factory.mktemp("sound") / "index"
    with (
        pytest.MonkeyPatch.context() as patch,
        FastLaneIndex.create(path, model=WordModel(), filter_keys=["n"]) as index,
    ):
        from fastlane_rag.upkeep import write

        patch.setattr(write, "SMALL_BYTES", 2000)
        for start in (0, 40):
            names = [f"d{i}" for i in range(start, start + 40)]
            index.add([f"word{i} of {n}" for i, n in enumerate(names)], ids=names, metadatas=[{"n": 1}] * 40)
        index.add(["pending one", "pending two"], ids=["p1", "p2"], metadatas=[{"n": 2}, {"n": 3}])
        index.delete(["d3", "d50"])
        assert index.stats().segments == 2
        assert (index.stats().pending, index.stats().dead) == (2, 2)
    return path


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """An index with a segment in code, dead rows and pending rows."""
    path = tmp_path_factory.mktemp("coded") / "index"
    with (
        pytest.MonkeyPatch.context() as patch,
        FastLaneIndex.create(path, model=WordModel(), codec="residual4") as index,
    ):
        from fastlane_rag.upkeep import recode, write

        patch.setattr(write, "SMALL_BYTES", 2000)
        patch.setattr(recode, "TRAIN_TOKENS", 100)
        names = [f"d{i}" for i in range(80)]
        index.add([f"word{i} of {n}" for i, n in enumerate(names)], ids=names, metadatas=[{"n": 1}] * 80)
        index.add(["pending one", "pending two"], ids=["p1", "p2"], metadatas=[{"n": 2}, {"n": 3}])
        index.delete(["d3", "d50"])
    with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
        assert catalogue.execute("SELECT count(*) FROM segments WHERE codec LIKE 'residual4-%'").fetchone() == (1,)
    return path


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "index"))


def contents(path):
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
        ids = index.ids()
        hits = index.search_batch(["word3 of", "pending one", "d77 word7"], k=90, route_k="all")
        return ids, index.get(ids), hits, index.ids({"n": {"$gt": 1}}), index.stats()


def test_a_sound_index_verifies(sound):
    assert verify(sound) == []


def test_a_sound_index_in_code_verifies(coded):
    assert verify(coded) == []


@pytest.mark.parametrize("kind", ["catalogue", "segment"])
def test_flipped_bytes_of_an_index_in_code_are_named_or_harmless(coded, tmp_path, kind):
    test_flipped_bytes_are_named_or_harmless(coded, Path(shutil.copytree(coded, tmp_path / "index")), kind)


def test_codecs_are_checked(coded, tmp_path):
    damaged = Path(shutil.copytree(coded, tmp_path / "index"))
    original = (damaged / "catalogue.sqlite3").read_bytes()
    for statement in (
        "UPDATE codecs SET parameters = zeroblob(200)",
        "UPDATE codecs SET parameters = 'text'",
        "UPDATE codecs SET checksum = 5",
        "UPDATE codecs SET tokens = 'many'",
        "UPDATE codecs SET name = 'residual4-0000000000000000'",
        "DELETE FROM codecs",
        "UPDATE segments SET codec = 'fp16'",
    ):
        with sqlite3.connect(damaged / "catalogue.sqlite3", isolation_level=None) as connection:
            connection.executescript(statement)
        connection.close()
        assert any("catalogue" in problem for problem in verify(damaged)), statement
        (damaged / "catalogue.sqlite3").write_bytes(original)
    assert verify(damaged) == []


@pytest.mark.parametrize("kind", ["catalogue", "segment", "marker"])
def test_flipped_bytes_are_named_or_harmless(sound, damaged, kind):
    """A changed byte is reported with its file, or changes nothing that can be read."""
    files = {
        "catalogue": [damaged / "catalogue.sqlite3"],
        "segment": sorted((damaged / "segments").iterdir()),
        "marker": [damaged / "commits"],
    }[kind]
    chance, good = random.Random(7), contents(sound)
    silent = 0
    for file in files:
        original = file.read_bytes()
        positions = range(len(original)) if len(original) < 100 else sorted(chance.sample(range(len(original)), FLIPS))
        for position in positions:
            changed = bytearray(original)
            changed[position] ^= 1 << chance.randrange(8)
            file.write_bytes(changed)
            found = verify(damaged)
            if not found:
                silent += 1
                assert contents(damaged)[:4] == good[:4], f"{file.name}, byte {position}: changed without a word"
            else:
                assert any(file.name in problem for problem in found), (found, file.name)
        file.write_bytes(original)
    assert verify(damaged) == []
    if kind != "catalogue":
        assert silent == 0


def test_every_table_is_checked(damaged):
    """Values changed through SQLite, so that its pages stay valid."""
    statements = [
        "UPDATE documents SET text = 'forged' WHERE id = 'd7'",
        "UPDATE documents SET metadata = '{\"n\":9}' WHERE id = 'd7'",
        "DELETE FROM filter_keys; DELETE FROM fields; UPDATE documents SET metadata = 'no JSON' WHERE id = 'd7'",
        "DELETE FROM filter_keys; UPDATE documents SET metadata = CAST(x'7bff7d' AS TEXT) WHERE id = 'd7'",
        "UPDATE documents SET text = x'00ff' WHERE id = 'd7'",
        "UPDATE documents SET id = 'forged' WHERE id = 'd7'",
        "UPDATE documents SET tokens = 99 WHERE id = 'd7'",
        "UPDATE documents SET row = 999 WHERE id = 'd7'",
        "UPDATE documents SET segment = 77 WHERE id = 'd7'",
        "DELETE FROM documents WHERE id = 'd7'",
        "DELETE FROM documents WHERE id = 'p1'",
        "UPDATE dead SET row = 9",
        "DELETE FROM dead",
        "UPDATE segments SET tokens = tokens + 1",
        "UPDATE segments SET documents = documents + 1",
        "UPDATE segments SET bytes = bytes + 1",
        "UPDATE segments SET header = 'ffff'",
        "UPDATE segments SET name = '../catalogue.sqlite3' WHERE segment = 1",
        "UPDATE segments SET name = 'ffffffffffffffffffffffffffffffff' WHERE segment = 1",
        "DELETE FROM segments",
        "UPDATE pending SET tokens = zeroblob(64)",
        "DELETE FROM pending",
        "UPDATE fields SET value = 5 WHERE doc = 1",
        "DELETE FROM fields WHERE doc = 1",
        "UPDATE filter_keys SET key = 'other'",
        "UPDATE meta SET value = 'forged' WHERE key = 'fingerprint'",
        "UPDATE meta SET value = 17 WHERE key = 'dim'",
        "UPDATE meta SET value = 'pickle' WHERE key = 'codec'",
        "UPDATE meta SET value = 1 WHERE key = 'commits'",
        "PRAGMA application_id = 5",
    ]
    original = (damaged / "catalogue.sqlite3").read_bytes()
    for statement in statements:
        with sqlite3.connect(damaged / "catalogue.sqlite3", isolation_level=None) as connection:
            connection.executescript(statement)
        connection.close()
        assert any("catalogue" in problem or "segment" in problem for problem in verify(damaged)), statement
        gc.collect()  # on Python 3.13 an error that SQLite raised keeps its connection open until then
        (damaged / "catalogue.sqlite3").write_bytes(original)
    assert verify(damaged) == []


def test_forged_text_and_pending_rows_are_not_served(damaged):
    with sqlite3.connect(damaged / "catalogue.sqlite3", isolation_level=None) as connection:
        connection.execute("UPDATE documents SET text = 'forged' WHERE id = 'd7'")
    connection.close()
    with FastLaneIndex.open(damaged, model=WordModel()) as index:
        with pytest.raises(IndexFormatError, match=r"catalogue\.sqlite3 is damaged: the document 'd7'"):
            index.get(["d7"])
        assert index.get(["d8"])[0].id == "d8"


def test_token_rows_without_a_document_are_named(damaged):
    with sqlite3.connect(damaged / "catalogue.sqlite3", isolation_level=None) as connection:
        connection.execute("UPDATE documents SET row = row + 1000")
    with (
        FastLaneIndex.open(damaged, model=WordModel(), read_only=True) as index,
        pytest.raises(IndexFormatError, match=r"is damaged: no document for row \d+ of segment \d+"),
    ):
        index.search("word", k=3)


def test_filters_name_damaged_metadata(damaged):
    with sqlite3.connect(damaged / "catalogue.sqlite3", isolation_level=None) as connection:
        connection.executescript("DELETE FROM filter_keys; UPDATE documents SET metadata = '{' WHERE id = 'd7'")
    connection.close()
    with (
        FastLaneIndex.open(damaged, model=WordModel()) as index,
        pytest.raises(IndexFormatError, match=r"catalogue\.sqlite3 is damaged: malformed JSON"),
    ):
        index.ids({"n": 1})


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000, -1])
def test_truncated_segments_are_named(damaged, keep):
    file = sorted((damaged / "segments").iterdir())[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(IndexFormatError, match=rf"{file.name} is damaged: it has \d+ bytes instead of"):
        FastLaneIndex.open(damaged)
    assert file.name in verify(damaged)[0]


@pytest.mark.parametrize("keep", [0, 50, 4096, -4096, -1])
def test_truncated_catalogues_are_named(damaged, keep):
    file = damaged / "catalogue.sqlite3"
    file.write_bytes(file.read_bytes()[:keep])
    try:
        problems = verify(damaged)
    except FastLaneError as error:
        problems = [str(error)]
    assert problems
    assert all("catalogue.sqlite3" in problem for problem in problems)


def test_a_missing_segment_is_named_and_the_documents_can_still_be_exported(damaged, sound):
    file = sorted((damaged / "segments").iterdir())[0]
    file.unlink()
    with pytest.raises(IndexFormatError, match=file.name):
        FastLaneIndex.open(damaged)
    assert any(file.name in problem for problem in verify(damaged))
    assert list(export(damaged)) == contents(sound)[1]


def test_compaction_never_gives_damaged_rows_a_fresh_checksum(damaged):
    file = sorted((damaged / "segments").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[4096 + 64] ^= 1
    file.write_bytes(data)
    with FastLaneIndex.open(damaged, model=WordModel()) as index:
        with pytest.raises(IndexFormatError, match=file.name):
            index.compact()
        assert any(file.name in problem for problem in index.verify())
        assert len(index) == 80


LEAVE_A_LOG = """
import os, sys
from word_model import WordModel
from fastlane_rag import FastLaneIndex
index = FastLaneIndex.open(sys.argv[1], model=WordModel())
for i in range(5):
    index.add([f"late document {i}"], ids=[f"late{i}"])
os._exit(0)
"""


def leave_a_log(path):
    """Let a process die with commits that are only in the write-ahead log."""
    subprocess.run([sys.executable, "-c", LEAVE_A_LOG, str(path)], check=True, env=ENVIRONMENT)
    log = path / "catalogue.sqlite3-wal"
    assert log.stat().st_size > 0
    return log


def test_commits_that_vanish_with_the_log_are_noticed(damaged):
    log = leave_a_log(damaged)
    saved = {file: file.read_bytes() for file in damaged.iterdir() if file.is_file()}

    def restore():
        for file, data in saved.items():
            file.write_bytes(data)

    for damage in ("flip", "truncate", "remove"):
        restore()
        data = bytearray(saved[log])
        if damage == "flip":
            data[len(data) // 2] ^= 255
            log.write_bytes(data)
        elif damage == "truncate":
            log.write_bytes(data[: len(data) // 2])
        else:
            log.unlink()
            (damaged / "catalogue.sqlite3-shm").unlink()
        with pytest.raises(IndexFormatError, match=r"catalogue\.sqlite3 has \d+ commits, but \d+ were made"):
            FastLaneIndex.open(damaged)
        assert "commits" in verify(damaged)[0]
    restore()
    with FastLaneIndex.open(damaged) as index:
        assert "late4" in index


def test_formats_from_the_future_ask_for_an_upgrade(damaged):
    original = (damaged / "catalogue.sqlite3").read_bytes()
    with sqlite3.connect(damaged / "catalogue.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(IndexFormatError, match=r"catalogue\.sqlite3 has format version 99.*upgrade"):
        FastLaneIndex.open(damaged)
    (damaged / "catalogue.sqlite3").write_bytes(original)
    file = sorted((damaged / "segments").iterdir())[0]
    file.write_bytes(file.read_bytes().replace(b'"version":"1"', b'"version":"9"', 1))
    with pytest.raises(IndexFormatError, match=rf"{file.name} has format version 9.*upgrade"):
        FastLaneIndex.open(damaged)


def test_overwriting_replaces_a_damaged_index(damaged):
    (damaged / "catalogue.sqlite3").write_bytes(b"rubbish" * 1000)
    with pytest.raises(IndexFormatError):
        FastLaneIndex.create(damaged, model=WordModel())
    with FastLaneIndex.create(damaged, model=WordModel(), overwrite=True) as index:
        assert index.ids() == []
        index.add(["fresh"], ids=["f"])
    assert verify(damaged) == []
    assert len(list((damaged / "segments").iterdir())) == 0


FULL_DISK = """
import resource, signal, sys
from word_model import WordModel
from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError
from fastlane_rag.upkeep import merge, write
write.SMALL_BYTES = 20_000
path, size, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
index = FastLaneIndex.open(path, model=WordModel())
before = index.ids()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    index.add([f"word{i} " * 9 for i in range(size)])
except OSError as error:
    print(type(error).__name__, error)
assert index.ids() == before, "a write that failed left something"
assert index.get(before[:1]), "reading must go on"
"""


def fails_without_loss(path, script, *arguments):
    """Run a script whose write meets a full disk: a StorageError, and an index as sound and as full as before."""
    before = contents(path)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("StorageError"), done.stdout
    assert verify(path) == []
    assert contents(path)[:4] == before[:4]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
@pytest.mark.parametrize(("documents", "limit"), [(30, 40_000), (30, 8_000), (3000, 200_000), (3000, 2_000)])
def test_a_full_disk_loses_nothing(damaged, documents, limit):
    """RLIMIT_FSIZE makes files stop growing, small writes (in the catalogue) and large ones (a segment) alike."""
    fails_without_loss(damaged, FULL_DISK, documents, limit)
    with FastLaneIndex.open(damaged, model=WordModel()) as index:
        index.add(["room again"], ids=["r"])
        assert index.search("room again", k=1)[0].id == "r"
        assert not list((damaged / "segments").glob("*.draft"))


FULL_FOR_OTHER_WRITES = """
import resource, signal, sys
from word_model import WordModel
from fastlane_rag import FastLaneIndex
path, kind, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
index = FastLaneIndex.open(path, model=WordModel())
before = index.get(index.ids())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    {
        "delete": lambda: index.delete(filter={}),
        "update": lambda: index.update_metadata(index.ids(), [{"n": "x" * 50}] * len(index)),
        "compact": index.compact,
        "save": lambda: index.save(path + "-copy"),
    }[kind]()
except OSError as error:
    print(type(error).__name__, error)
assert index.get(index.ids()) == before, "a write that failed left something"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
@pytest.mark.parametrize("kind", ["delete", "update", "compact", "save"])
def test_every_kind_of_write_survives_a_full_disk(damaged, kind):
    before = contents(damaged)
    fails_without_loss(damaged, FULL_FOR_OTHER_WRITES, kind, 3000)
    with FastLaneIndex.open(damaged, model=WordModel()) as index:
        assert index.delete(filter={}) == len(before[0])
        index.compact()
    assert verify(damaged) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE on Windows")
@pytest.mark.parametrize(("kind", "limit"), [("compact", 3000), ("compact", 60_000), ("save", 100_000)])
def test_rows_in_code_survive_a_full_disk(tmp_path, monkeypatch, kind, limit):
    """What waits in temporary files is written out when they are closed, and refused once more."""
    from fastlane_rag.upkeep import recode, write

    monkeypatch.setattr(recode, "TRAIN_TOKENS", 300)
    monkeypatch.setattr(write, "SMALL_BYTES", 2000)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel(), codec="residual2") as index:
        index.add([f"base{i} word{i % 7} text" for i in range(400)], ids=[str(i) for i in range(400)])
        index.delete([str(i) for i in range(100)])
    fails_without_loss(path, FULL_FOR_OTHER_WRITES, kind, limit)


def test_a_write_is_stored_though_there_is_no_room_to_merge(tmp_path, monkeypatch, small_limits, caplog):
    """A merge runs after the commit and needs more space than the write; if it fails, the write has not failed."""
    from fastlane_rag.upkeep import steps

    def no_room(*_):
        raise StorageError("no space left")

    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        with monkeypatch.context() as patch:
            patch.setattr(steps, "rewrite", no_room)
            for i in range(40):
                assert index.add([f"word{i} of many words"], ids=[f"d{i}"]) == [f"d{i}"]
            assert index.delete(["d7"]) == 1
        assert "the write is stored, but segments could not be merged after it: no space left" in caplog.text
        assert index.ids() == [f"d{i}" for i in range(40) if i != 7]
        assert index.verify() == []
        assert index.stats().segments == 0
        index.add(["one more"])
        assert index.stats().segments == 1
        assert index.search("word9 of", k=1)[0].id == "d9"


def test_a_write_is_stored_though_its_marker_cannot_be_written(tmp_path, monkeypatch):
    from fastlane_rag.storage import transactions

    def no_room(*_):
        raise OSError(28, "No space left on device")

    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        with monkeypatch.context() as patch:
            patch.setattr(transactions, "write_marker", no_room)
            index.add(["stored"], ids=["s"])
        assert index.ids() == ["s"]
    assert verify(tmp_path / "index") == []
    with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as index:
        assert index.ids() == ["s"]


READ_ONLY_DIRECTORY = """
import os, sys
import numpy.ma  # loaded on demand, from where the other user may not read
from word_model import WordModel
from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError
from fastlane_rag.upkeep.verify import verify
path = sys.argv[1]
with FastLaneIndex.create(model=WordModel()) as warm:
    warm.add(["everything that is imported late"])
    warm.search("is imported now")
import mmap, socket
if os.getuid() == 0:
    os.setegid(65534), getattr(os, sys.argv[2])(65534)
with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
    print([hit.id for hit in index.search("pending one", k=1)], len(index), index.ids({"n": 2}))
print(verify(path))
for action in (
    lambda: FastLaneIndex.open(path, model=WordModel()).add(["x"]),
    lambda: FastLaneIndex.create(path + "/new", model=WordModel()),
):
    try:
        action()
    except FastLaneError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="other permissions on Windows")
@pytest.mark.parametrize("change", ["setuid", "seteuid"])  # a server may keep its real uid
def test_a_directory_that_cannot_be_written_can_be_read(damaged, change):
    folders = [damaged, damaged / "segments"]
    for folder in [*damaged.parents][:4]:
        folder.chmod(folder.stat().st_mode | 0o055)
    try:
        for folder in folders:
            folder.chmod(0o555)
        for file in [*damaged.glob("*"), *(damaged / "segments").glob("*")]:
            if file.is_file():
                file.chmod(0o444)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY_DIRECTORY, str(damaged), change],
            capture_output=True,
            text=True,
            env=ENVIRONMENT | {"HOME": "/nonexistent"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["['p1'] 80 ['p1']", "[]", "IndexReadOnlyError", "IndexReadOnlyError"]
    finally:
        for folder in folders:
            folder.chmod(0o755)


FOLLOWING = """
import os, sys
from word_model import WordModel
from fastlane_rag import FastLaneIndex
model = WordModel()
with FastLaneIndex.open(sys.argv[3], read_only=True, model=model) as index:
    index.search("word", 1), index.verify()  # imports what the other user may not read
getattr(os, sys.argv[2])(65534)
index = FastLaneIndex.open(sys.argv[1], read_only=True, model=model)
for line in sys.stdin:
    print(len(index), [hit.id for hit in index.search(line.strip(), 1)], index.verify(), flush=True)
"""


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root may become another user")
@pytest.mark.parametrize("change", ["setuid", "seteuid"])
def test_a_reader_that_may_not_write_sees_what_the_owner_writes(tmp_path, monkeypatch, change):
    path, rehearsal = tmp_path / "index", tmp_path / "rehearsal"
    for each in (path, rehearsal):
        with FastLaneIndex.create(each, model=WordModel()) as index:
            index.add([f"word{i}" for i in range(20)], [str(i) for i in range(20)])
    with monkeypatch.context() as patch, FastLaneIndex.open(rehearsal, model=WordModel()) as index:
        patch.setattr(write, "SMALL_BYTES", 2000)
        index.add([f"more{i}" for i in range(200)], [f"m{i}" for i in range(200)])
    for folder in [path, path / "segments", *[*path.parents][:4]]:
        folder.chmod(folder.stat().st_mode | 0o055)
    for file in [*path.glob("*"), *(path / "segments").glob("*")]:
        file.chmod(file.stat().st_mode | 0o044)
    command = [sys.executable, "-c", FOLLOWING, str(path), change, str(rehearsal)]
    nowhere = ENVIRONMENT | {"HOME": "/nonexistent"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=nowhere) as reader:

        def asked(query):
            print(query, file=reader.stdin, flush=True)
            return reader.stdout.readline().strip()

        assert asked("word3") == "20 ['3'] []"
        with FastLaneIndex.open(path, model=WordModel()) as index:
            index.add(["small"], ["waits in the catalogue"])
            assert asked("small") == "21 ['waits in the catalogue'] []"
        assert asked("small") == "21 ['waits in the catalogue'] []"
        monkeypatch.setattr(write, "SMALL_BYTES", 2000)
        with FastLaneIndex.open(path, model=WordModel()) as index:
            index.add([f"more{i}" for i in range(200)], [f"m{i}" for i in range(200)])
            assert asked("more7") == "221 ['m7'] []"
            index.compact()
            assert asked("more8") == "221 ['m8'] []"
        assert asked("more9") == "221 ['m9'] []"
        reader.stdin.close()


WRITING = """
import sys, time
from word_model import WordModel
from fastlane_rag import FastLaneIndex
from fastlane_rag.upkeep import merge, write
write.SMALL_BYTES, merge.PENDING_BYTES = 2000, 2000
with FastLaneIndex.open(sys.argv[1], model=WordModel()) as index:
    for n in range(10_000):
        index.add([f"word{n + i} and more" for i in range(8)], [f"{(n + i) % 50}" for i in range(8)])
        index.delete([f"{n % 50}"])
        if n % 5 == 4:
            index.compact()
        print(n, flush=True)
"""


def test_an_index_is_sound_while_another_process_writes(tmp_path):
    path = tmp_path / "index"
    FastLaneIndex.create(path, model=WordModel()).close()
    command = [sys.executable, "-c", WRITING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        try:
            for n in range(40):  # at least so many writes meanwhile
                assert writer.stdout.readline() == f"{n}\n"
                assert [verify(path) for _ in range(3)] == [[], [], []]
        finally:
            writer.kill()
    assert verify(path) == []


@pytest.mark.parametrize("name", ["commits", "writer.lock", "catalogue.sqlite3"])
def test_an_endless_file_in_the_place_of_one_is_not_read(tmp_path, name):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(["one"], ["1"])
    (tmp_path / "index" / name).unlink()
    (tmp_path / "index" / name).symlink_to("/dev/zero")
    with pytest.raises(FastLaneError, match=name):
        FastLaneIndex.open(tmp_path / "index", model=WordModel()).add(["two"])


def test_segment_names_cannot_leave_the_directory(damaged):
    victim = damaged.parent / "victim.safetensors"
    victim.write_text("precious")
    with sqlite3.connect(damaged / "catalogue.sqlite3") as connection:
        connection.execute("UPDATE segments SET name = '../../victim' WHERE segment = 1")
    connection.close()
    with pytest.raises(IndexFormatError, match="not a segment name"):
        FastLaneIndex.open(damaged)
    assert victim.read_text() == "precious"
