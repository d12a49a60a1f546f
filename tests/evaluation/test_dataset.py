"""BEIR folders: what is read, and errors that say where."""

import gzip
import json
from pathlib import Path

import pytest

from fastlane_rag.errors import DataError
from fastlane_rag.evaluation.dataset import load_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three PEP passages and two questions, one of them unjudged in dev."""
    (tmp_path / "qrels").mkdir()
    lines = [{"_id": f"d{i}", "title": f"PEP {i}", "text": f"text {i}"} for i in range(3)]
    corpus = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    queries = [{"_id": f"q{i}", "text": f"question {i}", "answers": ["x"]} for i in range(6)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\nq1\td2\t2\nq0\td1\t1\n")
    (tmp_path / "qrels" / "dev.tsv").write_text("".join(f"q{i}\td0\t1\n" for i in range(6)))
    return tmp_path


def test_a_split_is_read_with_its_judged_queries_only(folder: Path) -> None:
    dataset = load_dataset(folder)
    assert dataset.name == folder.name
    assert dataset.queries == {"q1": "question 1", "q0": "question 0"}
    assert dataset.qrels == {"q1": {"d0": 1, "d2": 2}, "q0": {"d1": 1}}
    assert [p.content for p in dataset.passages()] == ["PEP 0\ntext 0", "PEP 1\ntext 1", "PEP 2\ntext 2"]


def test_a_header_is_optional_and_a_limit_spreads_over_the_queries(folder: Path) -> None:
    assert len(load_dataset(folder, "dev").queries) == 6
    assert list(load_dataset(folder, "dev", limit=3).queries) == ["q0", "q2", "q4"]
    assert len(load_dataset(folder, "dev", limit=100).queries) == 6
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        load_dataset(folder, limit=0)


def test_the_corpus_hash_follows_the_corpus(folder: Path) -> None:
    before = load_dataset(folder).corpus_hash()
    assert load_dataset(folder, "dev").corpus_hash() == before
    (folder / "corpus.jsonl.gz").unlink()
    (folder / "corpus.jsonl").write_text('{"_id": "d0", "text": "other"}\n')
    assert load_dataset(folder).corpus_hash() != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels/test.tsv", "q1\td0\t1\nq1 d2 1\n", r"test\.tsv, line 2: expected .* found 1 field"),
        ("qrels/test.tsv", "q1\td0\thigh\n", r"test\.tsv, line 1: relevance must be a whole number, not 'high'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"test\.tsv holds no judgement"),
        ("qrels/test.tsv", "q9\td0\t1\n", r"judges query 'q9', which .*queries\.jsonl does not hold"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"queries\.jsonl, line 1: no 'text'"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n{', r"queries\.jsonl, line 2: is not JSON"),
    ],
)
def test_a_bad_line_is_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'train'.*splits there: dev, test"):
        load_dataset(folder, "train")
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset(tmp_path / "absent")
    (folder / "corpus.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"neither corpus\.jsonl nor corpus\.jsonl\.gz"):
        load_dataset(folder)
