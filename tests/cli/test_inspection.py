"""`fastlane verify`, `stats` and `export`: what they print, their exit codes, and that they load no model."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.cli import main

ROOT = Path(__file__).parents[2]
ODD = [
    ("plain", "Some words.", {}),
    ("title", "A title\nand a text.", {"title": "A title"}),
    ("../../escape", "Line one\nline two\u2028\ttab", {"_id": 1, "id": 2, "text": [3], "metadata": {"metadata": None}}),
    ("'; DROP TABLE documents; --", "🙂 \0 é", {"a\0b": "\ufdd0", "deep": {"x": [1, 1.5, True, None, 10**30]}}),
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def sound(model: FastLaneModel, passages: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real passages and documents that are odd in every legal way; some deleted, one segment."""
    path = tmp_path_factory.mktemp("inspection") / "index"
    with FastLaneIndex.create(path, model=model, filter_keys=["title"]) as index:
        some = sorted(passages, key=lambda p: len(p["text"]))[:30]
        index.add([p["text"] for p in some], ids=[p["id"] for p in some])
        index.compact()
        index.add([text for _, text, _ in ODD], [id_ for id_, _, _ in ODD], [metadata for *_, metadata in ODD])
        index.delete([some[0]["id"], some[7]["id"]])
    return path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "index"))


def contents(path: Path) -> list[Any]:
    with FastLaneIndex.open(path, read_only=True) as index:
        return index.get(index.ids())


def test_a_sound_index(sound: Path) -> None:
    result = run("verify", sound)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{sound} is sound\n", "")


def test_damage_is_named_a_line_each_with_exit_code_1(copy: Path) -> None:
    (segment,) = (copy / "segments").iterdir()
    data = bytearray(segment.read_bytes())
    data[5000] ^= 1
    segment.write_bytes(data)
    (copy / "commits").write_text("nonsense")
    result = run("verify", copy)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert f"{copy / 'commits'} is damaged" in lines[0]
    assert f"{segment} is damaged: 1 blocks of 64 KiB" in lines[1]
    assert result.stderr.startswith("2 problem(s) found")


def test_a_catalogue_that_cannot_be_opened_is_a_finding(copy: Path) -> None:
    (copy / "catalogue.sqlite3").write_bytes(b"rubbish" * 1000)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "catalogue.sqlite3 is damaged" in result.stdout


def test_stats_are_those_of_the_index(sound: Path) -> None:
    with FastLaneIndex.open(sound, read_only=True) as index:
        stats = index.stats()
    assert (stats.documents, stats.segments, stats.pending, stats.dead) == (32, 1, 4, 2)
    result = run("stats", sound)
    assert result.exit_code == 0
    shown = {line.split("  ")[0].strip(): line.split("  ", 1)[1].strip() for line in result.stdout.splitlines()}
    assert shown["documents"] == "32"
    assert shown["tokens"] == f"{stats.tokens:,} of {stats.dim} dimensions"
    assert shown["bytes per document"] == f"{stats.bytes_per_document:,.0f}"
    assert shown["segments"] == "1, and 4 documents waiting for one"
    assert shown["dead rows"] == "2"
    assert shown["codec"] == stats.codec
    assert shown["model"].startswith(f"{stats.model} (")
    assert shown["filter keys"] == "title"
    found = json.loads(run("stats", sound, "--json").stdout)
    assert (found["documents"], found["tokens"], found["dead"]) == (32, stats.tokens, 2)
    assert (found["path"], found["filter_keys"]) == (str(sound), ["title"])
    assert found["bytes_per_document"] == pytest.approx(stats.bytes / 32)


def test_a_property_is_one_line_however_long(tmp_path: Path, model: FastLaneModel) -> None:
    keys = [f"a key with a long name, number {number}" for number in range(9)]
    FastLaneIndex.create(tmp_path / "index", model=model, filter_keys=keys).close()
    assert ", ".join(keys) in run("stats", tmp_path / "index").stdout


def test_an_index_written_out_and_read_in_is_the_same(sound: Path, tmp_path: Path) -> None:
    printed = run("export", sound)
    assert printed.exit_code == 0
    assert set(json.loads(printed.stdout.splitlines()[0])) == {"_id", "text", "metadata"}
    for name in ("out.jsonl", "out.jsonl.gz"):
        out = tmp_path / name
        assert run("export", sound, "--out", out).stderr == f"32 documents in {out}\n"
        data = out.read_bytes()
        assert (gzip.decompress(data) if name.endswith(".gz") else data) == printed.stdout_bytes
        assert run("index", out, "--out", tmp_path / f"{name}.index").exit_code == 0
        assert contents(tmp_path / f"{name}.index") == contents(sound)


def test_documents_outlive_their_segments(copy: Path, sound: Path) -> None:
    shutil.rmtree(copy / "segments")
    assert run("export", copy).stdout == run("export", sound).stdout
    result = run("stats", copy)
    assert result.exit_code == 1
    assert "segments" in result.stderr


def test_an_export_writes_into_pipes_and_through_links(sound: Path, tmp_path: Path) -> None:
    """A device or a pipe was replaced by a file: as root, /dev/null."""
    printed, pipe, target = run("export", sound).stdout_bytes, tmp_path / "pipe", tmp_path / "target"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        assert run("export", sound, "--out", pipe).exit_code == 0
        assert read.result(20) == printed
    assert pipe.is_fifo()
    target.write_text("old")
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    assert run("export", sound, "--out", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == printed
    assert target.stat().st_mode & 0o777 == 0o600


def test_an_export_touches_no_other_file(sound: Path, tmp_path: Path) -> None:
    """A file, or what a link led to, named like the export with .part at its end was overwritten, and then removed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out.jsonl.part").symlink_to(victim)
    assert run("export", sound, "--out", tmp_path / "out.jsonl").exit_code == 0
    assert victim.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.part", "victim"]


def test_half_an_export_gets_no_name(copy: Path, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(copy / "catalogue.sqlite3") as connection:
        connection.execute("UPDATE documents SET text = 'forged' WHERE id = 'title'")
    connection.close()
    before = sorted(tmp_path.iterdir())
    result = run("export", copy, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert "the document 'title'" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["verify", "stats", "export"])
def test_where_there_is_no_index(command: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        result = run(command, path)
        assert result.exit_code == 1
        assert result.stdout == ""
        missing = f"{path} holds no FastLane index (there is no catalogue.sqlite3 in it)"
        assert result.stderr == f"Error: {missing}; fastlane index CORPUS --out DIR makes one\n"


@pytest.mark.parametrize("command", ["verify", "stats", "export"])
def test_no_model_is_loaded(command: str, sound: Path) -> None:
    program = (
        "import sys\nfrom fastlane_rag.cli import main\n"
        f"main([{command!r}, {str(sound)!r}], standalone_mode=False)\n"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'faiss') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_stops_early_is_no_error(sound: Path) -> None:
    """As in `fastlane export DIR | head -1`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fastlane_rag", "export", str(sound)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert "Traceback" not in done.stderr.read()


def test_foreign_text_cannot_turn_the_line_around(tmp_path: Path, model: FastLaneModel) -> None:
    """U+202E shows what follows from right to left, U+009B starts a colour or moves the cursor."""
    text = "cats \u202eevil\u2066 \x9b31m \u2028purr \U000e0041"
    with FastLaneIndex.create(tmp_path / "index", model=model, filter_keys=["\u202ekey"]) as index:
        index.add([text], ids=["\u202eid"], metadatas=[{"title": "\u200fevil"}])
    shown = [run("search", tmp_path / "index", "cats"), run("search", tmp_path / "index", "cats", "--json")]
    shown += [
        run("stats", tmp_path / "index"),
        run("stats", tmp_path / "index", "--json"),
        run("export", tmp_path / "index"),
    ]
    shown += [
        run("search", tmp_path / "\u202eindex", "cats"),
        run("explain", "\u202ecats", "--index", tmp_path / "index"),
    ]
    for result in shown:
        assert not set("\u202e\u2066\x9b\u2028\u200f\U000e0041") & set(result.output), result.output
    assert json.loads(shown[1].stdout)["hits"][0]["text"] == json.loads(shown[4].stdout)["text"] == text


def test_ctrl_c_ends_with_the_code_that_shells_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastlane_rag.upkeep.verify.verify", interrupted)
    result = run("verify", tmp_path)
    assert (result.exit_code, result.output) == (130, "interrupted\n")
