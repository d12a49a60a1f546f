"""Malicious ids, texts, metadata, filters and index directories are handled as data, or refused."""

import hashlib
import json
import os
import shutil
import sqlite3
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneError, IndexFormatError
from fastlane_rag.upkeep.verify import verify

HOSTILE = [
    "'; DROP TABLE documents; --",
    '" OR 1=1 --',
    "') UNION SELECT text FROM documents --",
    "a.b",
    "a[0]",
    '"a"',
    "*",
    "%",
    "_",
    "?1",
    ":id",
    "../../../escape",
    "/etc/passwd",
    "C:\\escape",
    "catalogue.sqlite3",
    "segments/0123456789abcdef0123456789abcdef",
    "\0",
    "a\0b",
    "\ufdd0",
    "\x1b[2J",
    "{}",
    "null",
    "__import__('os').system('touch pwned')",
    "{{7*7}}${7*7}",
    "%s%n",
    "x" * 5000,
]


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
def test_hostile_ids_keys_and_values_are_data(tmp_path, monkeypatch, indexed):
    """Each is stored, found, filtered on by key and by value, changed and deleted, without effect on others."""
    monkeypatch.chdir(tmp_path)
    keys = [f"k{text}" for text in HOSTILE]
    with FastLaneIndex.create("index", model=WordModel(), filter_keys=keys if indexed else ()) as index:
        metadatas = [{key: text, "all": HOSTILE} for key, text in zip(keys, HOSTILE, strict=True)]
        index.add([f"word {text}" for text in HOSTILE], ids=HOSTILE, metadatas=metadatas)
        assert index.ids() == HOSTILE
        for key, text in zip(keys, HOSTILE, strict=True):
            assert [d.metadata for d in index.get([text])] == [{key: text, "all": HOSTILE}]
            for filter in ({key: text}, {key: {"$in": [text]}}, {key: {"$exists": True}}, {key: {"$contains": text}}):
                assert index.ids(filter) == [text]
                assert [hit.id for hit in index.search("word", filter=filter)] == [text]
            assert len(index.ids({"all": {"$contains": text}})) == len(HOSTILE)
        assert index.update_metadata(HOSTILE, [{"n": i} for i in range(len(HOSTILE))]) == len(HOSTILE)
        for i, text in enumerate(HOSTILE):
            assert index.delete([text], filter={"n": i}) == 1
            assert index.ids() == HOSTILE[i + 1 :]
        assert index.verify() == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


@pytest.fixture
def foreign(tmp_path):
    """An index with a segment, to be tampered with, and a file beside it that must survive."""
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel(), filter_keys=["n"]) as index:
        index.add([f"word{i} of many" for i in range(20)], metadatas=[{"n": i} for i in range(20)])
        index.compact()
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON documents BEGIN DELETE FROM documents; END",
        "CREATE VIEW evil AS SELECT load_extension('evil')",
        "CREATE TABLE evil (x)",
        "DROP TRIGGER fields_insert",
        "DROP TABLE documents; CREATE VIEW documents AS SELECT 1 AS doc, 'a' AS id, 1 AS segment, 0 AS row, "
        "1 AS tokens, 0 AS checksum, '{}' AS metadata, hex(zeroblob(1000000000)) AS text",
    ],
)
def test_a_catalogue_with_code_in_it_is_refused(foreign, statement):
    with sqlite3.connect(foreign / "catalogue.sqlite3", isolation_level=None) as connection:
        connection.executescript(statement)
    connection.close()
    with pytest.raises(IndexFormatError, match="its tables are not the ones that were made"):
        FastLaneIndex.open(foreign, model=WordModel())
    assert "its tables are not the ones" in verify(foreign)[0]


def forge(path: Path, name: str, change) -> None:
    """Change a segment's header or one of its arrays, and adapt every checksum, as an attacker would."""
    file = max((path / "segments").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    header = json.loads(data[8:4096])
    arrays = {}
    for one in (name, "checksums"):
        first, last = header[one]["data_offsets"]
        kind = {"I64": "<i8", "U16": "<u2", "U32": "<u4"}[header[one]["dtype"]]
        arrays[one] = np.frombuffer(data, kind, (last - first) // np.dtype(kind).itemsize, 4096 + first)
    change(header, arrays[name])
    body = bytes(data[4096 : 4096 + header["checksums"]["data_offsets"][0]])
    arrays["checksums"][:] = [zlib.crc32(body[i : i + 65536]) for i in range(0, len(body), 65536)]
    header["__metadata__"]["checksums_crc32"] = f"{zlib.crc32(arrays['checksums'].tobytes()):08x}"
    data[8:4096] = json.dumps(header).encode().ljust(4088)
    file.write_bytes(data)
    with sqlite3.connect(path / "catalogue.sqlite3") as connection:
        digest = hashlib.sha256(data[:4096]).hexdigest()
        connection.execute("UPDATE segments SET header = ?, bytes = ? WHERE name = ?", (digest, len(data), file.stem))
    connection.close()


def far_away(header, values):
    values[5:] = np.iinfo(values.dtype).max // 2


def before_the_start(header, values):
    values[3] = -(2**40)


def falling(header, values):
    values[[3, 9]] = values[[9, 3]]


def huge_shape(header, values):
    header["offsets"]["shape"] = [2**50]


def beyond_the_file(header, values):
    header["offsets"]["data_offsets"] = [2**40, 2**40 + 168]


def other_array(header, values):
    header["offsets"]["dtype"] = "object"


def half_of_them(header, values):
    entry, half = header["posting_offsets"], len(values) // 2
    values[half - 1] = values[-1]
    entry["shape"] = [half]
    entry["data_offsets"][1] = entry["data_offsets"][0] + half * values.itemsize


@pytest.mark.parametrize("change", [far_away, before_the_start, falling, huge_shape, beyond_the_file, other_array])
def test_a_forged_segment_is_refused_and_reads_nothing_outside(foreign, change):
    forge(foreign, "offsets", change)
    with (
        pytest.raises((FastLaneError, ValueError, LookupError)),
        FastLaneIndex.open(foreign, model=WordModel()) as index,
    ):
        index.search("word5 of many", k=20, route_k="all")
    assert verify(foreign)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("centroids", far_away),
        ("posting_offsets", far_away),
        ("posting_offsets", falling),
        ("posting_offsets", half_of_them),
        ("postings", far_away),
    ],
)
def test_a_forged_segment_in_code_reads_nothing_outside(tmp_path, monkeypatch, name, change):
    """Centroids that do not exist, lists beyond the file, documents beyond the segment: no crash, and verify tells."""
    from fastlane_rag.upkeep import recode

    monkeypatch.setattr(recode, "TRAIN_TOKENS", 100)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel(), codec="residual4") as index:
        index.add([f"word{i} of many" for i in range(500)])
        index.compact()
    assert verify(path) == []
    forge(path, name, change)
    refused = suppress(FastLaneError, ValueError, LookupError)
    with refused, FastLaneIndex.open(path, model=WordModel()) as index:
        for route_k in (1, "all"):
            index.search("word5 of many", k=20, route_k=route_k)
    assert verify(path)


def test_a_segment_that_is_a_link_to_another_file_is_refused_and_the_file_survives(foreign):
    (file,) = (foreign / "segments").iterdir()
    victim = foreign.parent / "victim"
    victim.write_bytes(b"x" * file.stat().st_size)
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(IndexFormatError, match="is not a regular file"):
        FastLaneIndex.open(foreign, model=WordModel())
    shutil.rmtree(foreign)
    assert victim.read_bytes().startswith(b"xxx")


@pytest.mark.parametrize("name", ["commits", "writer.lock", "catalogue.sqlite3-wal", "catalogue.sqlite3-shm"])
def test_a_file_that_has_another_name_outside_is_never_written(foreign, name):
    """A hard link, as an unpacked archive may hold it."""
    victim = foreign.parent / "victim"
    victim.write_text("precious")
    (foreign / name).unlink(missing_ok=True)
    (foreign / name).hardlink_to(victim)
    with suppress(FastLaneError), FastLaneIndex.open(foreign, model=WordModel()) as index:
        index.add(["one more"])
    with suppress(FastLaneError), FastLaneIndex.open(foreign, model=WordModel(), read_only=True) as index:
        index.search("word1", k=1)
    assert victim.read_text() == "precious"


def test_a_copy_by_hard_links_is_read_and_not_written(foreign, tmp_path):
    """What `cp -al` makes shares its files with the index it was made of."""
    before = (foreign / "catalogue.sqlite3").read_bytes()
    shutil.copytree(foreign, tmp_path / "linked", copy_function=os.link)
    with FastLaneIndex.open(tmp_path / "linked", model=WordModel(), read_only=True) as index:
        assert len(index) == len(index.ids()) > 0
    with pytest.raises(IndexFormatError, match=r"has 2 names \(hard links\).*Copy the index"):
        FastLaneIndex.open(tmp_path / "linked", model=WordModel())
    assert (foreign / "catalogue.sqlite3").read_bytes() == before


def test_a_forged_lock_file_only_changes_words(foreign):
    for text in ("", "not json", '{"pid": "; rm -rf /", "host": 5}', '{"pid": 1, "host": "\\u001b[2J"}', "x" * 10**6):
        (foreign / "writer.lock").write_text(text)
        with FastLaneIndex.open(foreign, model=WordModel()) as index:
            index.add(["still writable"])
        assert verify(foreign) == []
