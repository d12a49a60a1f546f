"""What the operating system refuses is told in our words, with the path and what to do, and changes nothing."""

import contextlib
import errno
import fcntl
import os
import shutil

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError, IndexNotFoundError, IndexReadOnlyError, InvalidInputError, StorageError
from fastlane_rag.upkeep.verify import verify

CALLS = ["open", "mkdir", "fsync", "rename", "unlink", "flock", "write", "listdir"]
CODES = [errno.EIO, errno.EROFS, errno.EPERM, errno.ENOSPC, errno.EMFILE, errno.ENOSYS, errno.EXDEV]
IDS = ["0", "1", "2"]


def create(path, where):
    FastLaneIndex.create(where / "new" / "deeper", model=WordModel()).close()


def overwrite(path, where):
    FastLaneIndex.create(path, model=WordModel(), overwrite=True).close()


def change(path, where):
    with FastLaneIndex.open(path, model=WordModel()) as index:
        index.add([f"more{i} of many" for i in range(100)])


def remove(path, where):
    with FastLaneIndex.open(path, model=WordModel()) as index:
        index.delete(["0"])


def compact(path, where):
    with FastLaneIndex.open(path, model=WordModel()) as index:
        index.compact()


def save(path, where):
    with FastLaneIndex.open(path, model=WordModel()) as index:
        index.save(where / "copy")


def search(path, where):
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
        assert len(index.search("word1", k=2)) == 2


def check(path, where):
    for problem in verify(path):
        raise StorageError(problem)


ACTIONS = [create, overwrite, change, remove, compact, save, search, check]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index with a segment of three documents and dead rows."""
    path = tmp_path_factory.mktemp("refusals") / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add([f"word{i} of many" for i in range(60)], ids=[str(i) for i in range(60)])
        index.compact()
        index.delete([str(i) for i in range(3, 60)])
    return path


class Refusing:
    """A system call that works `count` times on the files of a folder, and then is refused.

    Attributes:
        left: how many more times it works; negative once it was refused.
    """

    def __init__(self, call, where, count, code):
        self.real, self.where, self.left, self.code = call, str(where), count, code

    def __call__(self, target, *arguments, **options):
        by_handle = isinstance(target, int) or options.get("dir_fd") is not None
        if by_handle or str(target).startswith(self.where):
            self.left -= 1
            if self.left < 0:
                raise OSError(self.code, os.strerror(self.code), *(() if by_handle else (str(target),)))
        return self.real(target, *arguments, **options)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_refusal_of_every_call_is_told(made, tmp_path, monkeypatch, small_limits, call, action):
    """Each errno from each system call, at the first and at later times that it is made."""
    if call != "fsync":
        monkeypatch.setattr(os, "fsync", lambda fd: None)
    module = fcntl if call == "flock" else os
    real = getattr(module, call)
    for code in CODES:
        for count in range(8 if code == errno.EIO else 1):
            where = tmp_path / f"{code}-{count}"
            path = where / "index"
            shutil.copytree(made, path)
            refusing = Refusing(real, where, count, code)
            said = str(where)
            with monkeypatch.context() as patch:
                patch.setattr(module, call, refusing)
                try:
                    action(path, where)
                except FastLaneError as error:
                    said = str(error)
            assert str(where) in said, (code, count)
            if refusing.left >= 0:
                break  # the call is not made as often
            with FastLaneIndex.open(path, model=WordModel()) as index:
                lost = set(IDS) - set(index.ids())
                assert not lost or (action is remove and lost == {"0"}) or (action is overwrite and not len(index))
                index.add(["still writable"])
                assert index.verify() == []
            shutil.rmtree(where)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (errno.EROFS, IndexReadOnlyError, "read-only. An index there opens with read_only=True"),
        (errno.EACCES, IndexReadOnlyError, "this user may not"),
        (errno.ENOSPC, StorageError, "the disk is full. Free space"),
        (errno.EMFILE, StorageError, r"too many files open. Close some, or raise its limit \(ulimit -n\)"),
        (errno.ENAMETOOLONG, StorageError, "too long for the file system"),
        (errno.ESTALE, StorageError, "Open the index again"),
    ],
)
def test_an_error_says_what_to_do(made, tmp_path, monkeypatch, code, kind, said):
    def refused(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(kind, match=rf"cannot create an index in {tmp_path}.*{said}"):
        FastLaneIndex.create(tmp_path / "new", model=WordModel())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(made, monkeypatch, code):
    def refused(*arguments):
        raise OSError(code, os.strerror(code))

    with FastLaneIndex.open(made, model=WordModel()) as index:
        monkeypatch.setattr(fcntl, "flock", refused)
        with pytest.raises(StorageError, match=f"cannot write to the index {made}: .* local disk"):
            index.add(["text"])


def test_a_process_out_of_files_is_told_as_that(made, tmp_path):
    """SQLite says only that it cannot open the database."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with FastLaneIndex.open(made, model=WordModel()) as index:
        assert len(index.search("word1")) == 3
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(tmp_path, os.O_RDONLY))
            for action in (create, change, save, search, check):
                with pytest.raises(StorageError, match=r"too many files open|Too many open files"):
                    action(made, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)


@pytest.mark.parametrize("action", [create, save])
def test_paths_that_cannot_be_are_told(made, tmp_path, action):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file/deeper", "dangling", "circle", "x" * 300):
        target = tmp_path / name
        with FastLaneIndex.open(made, model=WordModel()) as index, pytest.raises(FastLaneError, match=f"{tmp_path}"):
            FastLaneIndex.create(target, model=WordModel()) if action is create else index.save(target)
        with pytest.raises(FastLaneError, match=f"{tmp_path}"):
            FastLaneIndex.open(target, model=WordModel())
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", ["a\0b", 3, None, ["a"], "\ud800", "s3://bucket/docs", "http://localhost:8000"])
def test_what_is_no_path_is_refused(made, path):
    with pytest.raises(InvalidInputError, match="the path of an index"):
        FastLaneIndex.open(path)
    with pytest.raises(InvalidInputError, match="the path of an index"), FastLaneIndex.open(made) as index:
        index.save(path)


def test_segments_that_git_left_out_are_made_anew(tmp_path, small_limits):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add(["few words"], ids=["a"])
    (path / "segments").rmdir()
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
        assert index.ids() == ["a"]
    change(path, tmp_path)
    assert verify(path) == []


def test_nothing_is_written_to_the_systems_temporary_folder(tmp_path, monkeypatch, small_limits):
    """It may be full, or missing where the root is read-only."""
    import tempfile

    from fastlane_rag.upkeep import recode

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 100)
    with FastLaneIndex.create(tmp_path / "index", model=WordModel(), codec="residual4") as index:
        index.add([f"word{i} of many" for i in range(100)])
        index.compact()
        assert index.stats().segments == 1
        assert [file.suffix for file in (tmp_path / "index" / "segments").iterdir()] == [".safetensors"]
        assert index.verify() == []


def test_a_missing_index_is_told_as_missing(tmp_path):
    with pytest.raises(IndexNotFoundError, match="holds no FastLane index"):
        FastLaneIndex.open(tmp_path / "nowhere")
