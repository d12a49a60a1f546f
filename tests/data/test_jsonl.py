"""Reading passages: what is accepted, and that an error names the file and the line."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from fastlane_rag.data import Passage, read_passages, sample_path
from fastlane_rag.errors import DataError


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_every_form_of_a_good_line(tmp_path: Path) -> None:
    """_id or id, text or number; title optional; other keys are metadata; blank lines do not count."""
    path = write(
        tmp_path / "c.jsonl",
        "\ufeff" + '{"_id": "a", "title": "T", "text": "x", "year": 2020}',
        "",
        '{"id": 7, "text": "y", "title": null}',
        '{"_id": "c", "text": ""}',
        '{"_id": "d", "text": "z", "metadata": {"metadata": 1, "text": 2, "year": 3}, "year": 4}',
        '{"_id": "e", "text": "z", "metadata": "words"}',
        '{"id": "other", "_id": "f", "text": "z"}',
    )
    assert list(read_passages(path)) == [
        Passage("a", "T", "x", {"year": 2020}),
        Passage("7", "", "y"),
        Passage("c", "", ""),
        Passage("d", "", "z", {"metadata": 1, "text": 2, "year": 4}),
        Passage("e", "", "z", {"metadata": "words"}),
        Passage("f", "", "z", {"id": "other"}),
    ]


def test_the_title_is_part_of_what_is_indexed() -> None:
    assert Passage("a", "Title", "Body.").content == "Title\nBody."
    assert Passage("a", "", "Body.").content == "Body."


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "named-plainly.jsonl"
    path.write_bytes(gzip.compress(b'{"_id": "a", "text": "x"}\n'))
    assert [p.id for p in read_passages(path)] == ["a"]


BAD_LINES = {
    "twice": ('{"_id": "a", "text": "x", "text": "y"}', "has the key 'text' twice"),
    "twice-inside": ('{"_id": "a", "text": "x", "metadata": {"n": 1, "n": 2}}', "has the key 'n' twice"),
    "not-json": ('{"_id": "a", "text": }', "not JSON"),
    "array": ('["a", "b"]', "must be a JSON object"),
    "no-id": ('{"text": "x"}', "no '_id'"),
    "empty-id": ('{"_id": "", "text": "x"}', "'_id' must be"),
    "bool-id": ('{"_id": true, "text": "x"}', "'_id' must be"),
    "no-text": ('{"_id": "a"}', "no 'text'"),
    "number-text": ('{"_id": "a", "text": 5}', "'text' must be text"),
    "list-title": ('{"_id": "a", "text": "x", "title": ["T"]}', "'title' must be text"),
    "nan": ('{"_id": "a", "text": "x", "n": NaN}', "has NaN, which is not JSON"),
    "surrogate": (r'{"_id": "a", "text": "\ud800"}', "surrogate"),
    "latin-1": ('{"_id": "a", "text": "é"}'.encode("latin-1"), "not UTF-8: byte 0xe9"),
    "infinite": ('{"_id": "a", "text": "x", "n": [1e999]}', "Out of range float"),
    "deep-metadata": ('{"_id": "a", "text": "x", "n": ' + "[" * 101 + "]" * 101 + "}", "nested more than 100 levels"),
    "deep": ("[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path, line: str | bytes, reason: str) -> None:
    path = write(tmp_path / "c.jsonl", '{"_id": "1", "text": "x"}', line, '{"_id": "3", "text": "z"}')
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: ") as raised:
        list(read_passages(path))
    assert reason in str(raised.value)
    errors: list[DataError] = []
    assert [p.id for p in read_passages(path, on_bad=errors.append)] == ["1", "3"]
    assert [str(error) for error in errors] == [str(raised.value)]


def test_an_endless_line_is_passed_over_without_being_in_memory(tmp_path: Path) -> None:
    """A few kilobytes of gzip that unpack to 256 MiB in one line."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"_id": "1", "text": "x"}\n')
        file.write(b'{"_id": "2", "text": "')
        for _ in range(256):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"_id": "3", "text": "z"}')
    errors: list[DataError] = []
    tracemalloc.start()
    try:
        assert [p.id for p in read_passages(path, on_bad=errors.append)] == ["1", "3"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [str(error) for error in errors] == [f"{path}, line 2: longer than 64 MiB"]
    assert most < 200 << 20


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        list(read_passages(tmp_path / "absent.jsonl"))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps({"_id": "a", "text": "x" * 9999}).encode())[:-20])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz"):
        list(read_passages(cut))


def test_the_sample_is_real_coherent_and_small() -> None:
    passages = list(read_passages(sample_path()))
    assert len({p.id for p in passages}) == len(passages) >= 1500
    assert all(p.title.startswith(f"PEP {p.metadata['pep']}: ") for p in passages)
    assert all(len(p.text.split()) >= 20 for p in passages)
    assert sample_path().stat().st_size < 600_000
    assert (sample_path().parent / "PROVENANCE.md").is_file()
