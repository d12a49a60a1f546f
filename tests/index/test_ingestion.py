"""Ingestion of streams: bounded memory, resumable, correct counts."""

import json

import pytest

from fastlane_rag import FastLaneIndex
from fastlane_rag.data import add_passages, read_passages
from fastlane_rag.errors import DataError, IndexLockedError, IndexReadOnlyError, InvalidInputError
from fastlane_rag.index import ingestion
from fastlane_rag.types import Document, Ingested


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ingestion, "CHUNK", 10)
    monkeypatch.setattr(ingestion, "CHUNK_CHARACTERS", 1000)


def documents(count, **changed):
    return [Document(f"d{n}", changed.get(f"d{n}", f"word{n} and more"), {"n": n}) for n in range(count)]


def test_a_generator_is_never_read_far_ahead_of_what_is_stored(index):
    ahead = []

    def stream():
        for n, document in enumerate(documents(95)):
            ahead.append(n - len(index))
            yield document

    assert index.ingest(stream(), show_progress=False) == Ingested(95, 95, 0, 0)
    assert max(ahead) < 10
    assert index.get(index.ids()) == documents(95)
    assert index.search("word42", k=1)[0].id == "d42"
    assert index.verify() == []


def test_long_texts_make_short_chunks(index):
    def stream():
        for n in range(6):
            assert len(index) == n
            yield Document(str(n), "word " * 300)

    index.ingest(stream())
    assert len(index) == 6


def test_a_stream_that_breaks_keeps_what_was_stored_and_goes_on(index, word_model):
    def broken():
        yield from documents(47)
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError):
        index.ingest(broken())
    assert index.ids() == [f"d{n}" for n in range(40)]
    assert word_model.encoded == 40
    assert index.ingest(documents(47)) == Ingested(47, 7, 0, 40)
    assert word_model.encoded == 47
    assert index.get(index.ids()) == documents(47)


def test_only_what_changed_is_encoded_and_only_what_differs_is_written(index, word_model):
    index.ingest(documents(30))
    commits = index.stats().commits
    assert index.ingest(documents(30)) == Ingested(30, 0, 0, 30)
    assert index.stats().commits == commits
    other = documents(31, d4="new words")
    other[9] = Document("d9", other[9].text, {"n": True})
    other[1] = Document("d1", other[1].text, {"n": True})  # equals 1, and is another value
    assert index.ingest(other) == Ingested(31, 1, 3, 27)
    assert word_model.encoded == 32
    assert index.get(["d1", "d4", "d9"]) == [other[1], other[4], other[9]]
    assert index.get(["d1"])[0].metadata["n"] is True
    assert index.ids() == [f"d{n}" for n in range(31)]


def test_of_an_id_given_twice_the_last_counts(index):
    stream = [Document("a", "first"), Document("b", "x"), Document("a", "second"), *documents(20), Document("b", "y")]
    assert index.ingest(stream) == Ingested(24, 22, 1, 1)
    assert [d.text for d in index.get(["a", "b"])] == ["second", "y"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("a text", r"document 13 of the stream must be a fastlane_rag\.types\.Document, not str 'a text'"),
        (Document(5, "x"), "the id of document 13 must be str, not int 5"),
        (Document("a", None), r"the text of document 13 \(id 'a'\) must be str"),
        (Document("a", "\ud800"), r"the text of document 13 \(id 'a'\) holds half of a surrogate pair"),
        (Document("a", "x", {"n": float("nan")}), r"the metadata of document 13 \(id 'a'\)\['n'\] is nan"),
        (Document("a", "x", [1]), r"the metadata of document 13 \(id 'a'\) must be a dict"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_place_in_the_stream(index, bad, message):
    with pytest.raises(InvalidInputError, match=message):
        index.ingest([*documents(12), bad, *documents(3)])
    assert index.ids() == [f"d{n}" for n in range(10)]


@pytest.mark.parametrize("stream", ["text", b"bytes", None, 7])
def test_what_is_no_stream_is_refused(index, stream):
    with pytest.raises(InvalidInputError, match="documents must be a stream"):
        index.ingest(stream)


def test_an_empty_stream(index):
    assert index.ingest([]) == Ingested(0, 0, 0, 0)


def test_writers_are_refused_before_anything_is_read(tmp_path, word_model):
    def unread():
        raise AssertionError("the stream was read")
        yield

    with FastLaneIndex.create(tmp_path / "index", model=word_model) as index:
        with FastLaneIndex.open(tmp_path / "index", model=word_model, timeout=0) as other:

            def stream():
                with pytest.raises(IndexLockedError):
                    other.ingest(unread())
                yield Document("x", "x")

            assert index.ingest(stream()).added == 1
        with (
            FastLaneIndex.open(tmp_path / "index", model=word_model, read_only=True) as other,
            pytest.raises(IndexReadOnlyError),
        ):
            other.ingest(unread())


def test_progress_goes_to_stderr_when_asked_for(index, capsys):
    index.ingest(documents(25), show_progress=True, total=25)
    captured = capsys.readouterr()
    assert "Indexing" in captured.err
    assert "25/25" in captured.err
    assert captured.out == ""
    index.ingest(documents(25))
    assert capsys.readouterr().err == ""


def test_what_the_reader_of_json_lines_lets_through_can_be_stored(index, tmp_path):
    """Metadata at the limits of depth and size: what reading a line accepts, the index accepts too."""
    deepest = {"n": "LIST", "big": 10**4000, "float": 1e308}
    line = json.dumps({"_id": "a", "text": "", "metadata": deepest}).replace('"LIST"', "[" * 100 + "]" * 100)
    (tmp_path / "corpus.jsonl").write_text(line)
    assert add_passages(index, read_passages(tmp_path / "corpus.jsonl")).added == 1
    assert index.get(["a"])[0].metadata["big"] == 10**4000
    too_deep = line.replace("[" * 100 + "]" * 100, "[" * 101 + "]" * 101)
    (tmp_path / "corpus.jsonl").write_text(too_deep)
    with pytest.raises(DataError, match="line 1: its metadata is nested"):
        list(read_passages(tmp_path / "corpus.jsonl"))
