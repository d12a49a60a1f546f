"""`fastlane index` and `fastlane search`, as a user types them."""

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.cli import main
from fastlane_rag.errors import FastLaneError
from fastlane_rag.index import ingestion
from fastlane_rag.types import Document

Passages = list[dict[str, str]]
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run `fastlane ...`; what it printed is in `.stdout` and `.stderr`."""
    return lambda *arguments, **options: CliRunner().invoke(main, [str(one) for one in arguments], **options)


def lines_of(passages: Passages) -> str:
    """JSON Lines, with the PEP's number as metadata."""
    return "".join(json.dumps(p | {"pep": int(p["id"].split("-")[0].removeprefix("pep"))}) + "\n" for p in passages)


@pytest.fixture(scope="module")
def chosen(passages: Passages) -> Passages:
    """Short passages of three PEPs."""
    peps = ("pep8-", "pep572-", "pep618-")
    return sorted((p for p in passages if p["id"].startswith(peps)), key=lambda p: len(p["text"]))[:24]


@pytest.fixture(scope="module")
def index(chosen: Passages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "corpus.jsonl").write_text(lines_of(chosen))
    result = CliRunner().invoke(main, ["index", str(folder / "corpus.jsonl"), "--out", str(folder / "index")])
    assert result.exit_code == 0, result.output
    counts = "24 passages read, 24 of them new, 0 changed, 0 stored already"
    assert result.stdout == f"{counts}; {folder / 'index'} holds 24\n"
    assert re.search(
        r"24 documents encoded in [\d.]+ s: [\d.,]+ documents/s, [\d.,]+ tokens/s, by onnx$", result.stderr.strip()
    )
    return folder / "index"


def test_a_passage_is_stored_with_title_and_metadata(index: Path, chosen: Passages) -> None:
    with FastLaneIndex.open(index, read_only=True) as opened:
        assert opened.ids() == [p["id"] for p in chosen]
        (stored,) = opened.get([chosen[3]["id"]])
    assert stored.text == f"{chosen[3]['title']}\n{chosen[3]['text']}"
    assert stored.metadata == {"title": chosen[3]["title"], "pep": int(chosen[3]["id"].split("-")[0][3:])}


def test_search_prints_passages_scores_and_routed_tokens(run: Run, index: Path) -> None:
    result = run("search", index, "what is zip strict for?", "-k", 2, "--route-k", 2)
    assert result.exit_code == 0
    assert " 1. " in result.stdout
    assert " 2. " in result.stdout
    assert " 3. " not in result.stdout
    assert "PEP 618" in result.stdout
    routed = next(line for line in result.stdout.splitlines() if "routed:" in line)
    assert routed.count("[") - routed.count("[CLS]") - routed.count("[SEP]") == 2
    assert result.stderr == ""


def test_words_thresholds_and_weights(run: Run, index: Path) -> None:
    def found(*options: Any) -> dict[str, Any]:
        result = run("search", index, "zip strict", "-k", 3, "--json", *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert found("--lane", "words")["lane"] == "words"
    relevances = [hit["relevance"] for hit in found()["hits"]]
    assert len(found("--score-threshold", relevances[1])["hits"]) == 2
    scores = [hit["score"] for hit in found("--hybrid-weight", 0.4)["hits"]]
    assert scores != [hit["score"] for hit in found("--hybrid")["hits"]] != [hit["score"] for hit in found()["hits"]]
    assert found("--hybrid", "--fusion", "rrf")["hits"][0]["score"] < 1
    assert "routed:" not in run("search", index, "zip strict", "--lane", "words").stdout
    for wrong in (("--score-threshold", "2"), ("--fusion", "sum"), ("--hybrid-weight", "x")):
        assert run("search", index, "zip strict", *wrong).exit_code != 0


def test_a_filter_that_matches_nothing_says_why(run: Run, index: Path) -> None:
    """Case 36."""
    result = run("search", index, "zip strict", "--filter", '{"pep": "618"}')
    assert result.exit_code == 0
    assert "no passage matches" in result.stdout
    assert result.stderr == (
        "Warning: nothing matches the filter: the filter compares 'pep' with a text, and it is a number in the "
        "documents: give the number without quotes\n"
    )
    found = json.loads(run("search", index, "zip strict", "--json", "--filter", '{"pap": 618}').stdout)
    assert found["hint"] == "no document has the metadata key 'pap'; did you mean 'pep'?"


def test_json_is_what_the_index_finds(run: Run, index: Path) -> None:
    result = run("search", index, "how long may a line be?", "-k", 3, "--json", "--route-k", "auto")
    found = json.loads(result.stdout)
    with FastLaneIndex.open(index, read_only=True) as opened:
        hits = opened.search("how long may a line be?", k=3, route_k="auto")
    assert [one["id"] for one in found["hits"]] == [hit.id for hit in hits]
    assert [one["score"] for one in found["hits"]] == pytest.approx([hit.score for hit in hits])
    assert found["hits"][0]["metadata"]["pep"] == 8
    assert len(found["routed"]) >= 1
    assert found["comparisons"] > 0


def test_a_filter_holds_and_k_is_honoured(run: Run, index: Path) -> None:
    result = run("search", index, "line length", "-k", 3, "--filter", '{"pep": {"$gte": 600}}', "--json")
    assert [one["metadata"]["pep"] for one in json.loads(result.stdout)["hits"]] == [618] * 3
    nothing = run("search", index, "line length", "--filter", '{"pep": 1}')
    assert nothing.exit_code == 0
    assert "no passage matches" in nothing.stdout


def test_gather_only_and_all_tokens(run: Run, index: Path) -> None:
    """All tokens without refinement give full SumMaxSim, as does refining all of these few passages."""
    scores = [
        [one["score"] for one in json.loads(run("search", index, "strict zip", "--json", *options).stdout)["hits"]]
        for options in ([], ["--route-k", "all", "--no-refine"], ["--route-k", "1", "--no-refine"])
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert scores[2][0] < scores[0][0]


def test_the_same_passages_again_replace_themselves(run: Run, chosen: Passages, tmp_path: Path) -> None:
    (tmp_path / "first.jsonl").write_text(lines_of(chosen[:3]))
    changed = [chosen[2] | {"text": "Entirely new words."}, chosen[3]]
    (tmp_path / "second.jsonl.gz").write_bytes(gzip.compress(lines_of(changed).encode()))
    out = tmp_path / "index"
    assert run("index", tmp_path / "first.jsonl", "--out", out).exit_code == 0
    result = run("index", tmp_path / "second.jsonl.gz", "--out", out)
    assert "2 passages read, 1 of them new, 1 changed, 0 stored already" in result.stdout
    with FastLaneIndex.open(out, read_only=True) as opened:
        assert len(opened) == 4
        assert opened.get([chosen[2]["id"]])[0].text.endswith("\nEntirely new words.")


def test_an_interrupted_run_goes_on_where_it_stopped(passages: Passages, tmp_path: Path) -> None:
    """Killed part-way and run again, it ends with the index of a run that nobody interrupted."""
    chosen = sorted(passages, key=lambda p: len(p["text"]))[:64]
    corpus, out, whole = tmp_path / "corpus.jsonl", tmp_path / "index", tmp_path / "whole"
    corpus.write_text(lines_of(chosen))
    program = "from fastlane_rag.cli import main; from fastlane_rag.index import ingestion; ingestion.CHUNK = 8; main()"
    command = [sys.executable, "-c", program, "index", str(corpus), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        while (stored := stored_in(out)) < 8 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert 0 < stored < len(chosen), "the process must be killed between its first write and its last"
    stored = stored_in(out)  # another write may have come between
    text = "Entirely new words."
    corpus.write_text(lines_of([chosen[0] | {"text": text}, *chosen[1:]]))

    encoded: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        original = FastLaneModel.encode_documents

        def noting(model: FastLaneModel, texts: list[str], **options: Any) -> Any:
            encoded.extend(texts)
            return original(model, texts, **options)

        patch.setattr(FastLaneModel, "encode_documents", noting)
        result = CliRunner().invoke(main, ["index", str(corpus), "--out", str(out)])
        assert result.exit_code == 0, result.output
        counts = f"{len(chosen) - stored} of them new, 1 changed, {stored - 1} stored already"
        assert counts in result.stdout
        assert len(encoded) == len(chosen) - stored + 1
        encoded.clear()
        again = CliRunner().invoke(main, ["index", str(corpus), "--out", str(out)])
        assert f"0 of them new, 0 changed, {len(chosen)} stored already" in again.stdout
        assert not encoded
    assert CliRunner().invoke(main, ["index", str(corpus), "--out", str(whole)]).exit_code == 0
    with FastLaneIndex.open(out) as resumed, FastLaneIndex.open(whole) as expected:
        assert resumed.ids() == expected.ids()
        assert resumed.get(resumed.ids()) == expected.get(expected.ids())
        assert resumed.verify() == []
        queries = ["how long may a line be?", "new words"]
        for found, wanted in zip(resumed.search_batch(queries), expected.search_batch(queries), strict=True):
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=0.05)
        assert resumed.search("new words", k=1)[0].text.endswith(text)


def stored_in(path: Path) -> int:
    """How many documents are committed, seen from another process."""
    try:
        with FastLaneIndex.open(path, read_only=True) as opened:
            return len(opened)
    except FastLaneError:  # it is being made
        return 0


def test_an_interruption_says_what_is_stored(
    run: Run, chosen: Passages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus.jsonl").write_text(lines_of(chosen[:6]))
    monkeypatch.setattr(ingestion, "CHUNK", 2)
    encode, encoded = FastLaneModel.encode_documents, []

    def interrupted(model: FastLaneModel, texts: list[str], **options: Any) -> Any:
        if len(encoded) == 4:
            raise KeyboardInterrupt
        encoded.extend(texts)
        return encode(model, texts, **options)

    monkeypatch.setattr(FastLaneModel, "encode_documents", interrupted)
    result = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
    assert result.exit_code == 130
    assert f"interrupted; {tmp_path / 'index'} holds 4, the same command goes on from there" in result.stderr
    monkeypatch.setattr(FastLaneModel, "encode_documents", encode)
    result = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
    assert "2 of them new, 0 changed, 4 stored already" in result.stdout


def test_filter_keys_are_those_of_the_first_run(run: Run, chosen: Passages, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(lines_of(chosen[:2]))
    command = ["index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index", "--filter-key", "pep"]
    assert run(*command).stderr == ""
    assert run(*command).stderr == ""
    refused = run(*command, "--filter-key", "year")
    assert refused.exit_code == 1
    assert "was made without the filter key(s) year; leave filter_keys out" in refused.stderr


def test_standard_input(run: Run, chosen: Passages, tmp_path: Path) -> None:
    result = run("index", "-", "--out", tmp_path / "index", input=lines_of(chosen[:2]))
    assert result.exit_code == 0
    assert "2 passages read" in result.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this platform")
def test_a_pipe(run: Run, chosen: Passages, tmp_path: Path) -> None:
    """As in `fastlane index <(zcat *.gz)`: it cannot be read twice."""
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit((tmp_path / "pipe").write_text, lines_of(chosen[:2]))
        result = run("index", tmp_path / "pipe", "--out", tmp_path / "index")
        writing.result()
    assert "2 passages read, 2 of them new" in result.stdout


BAD = '{"_id": "a", "text": "Good."}\n{"_id": "b", "text": 5}\nnot json\n{"_id": "d", "text": "Good too."}\n'


def test_bad_lines_stop_everything_unless_skipped(run: Run, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "index"
    corpus.write_text(BAD)
    result = run("index", corpus, "--out", out)
    assert result.exit_code == 1
    assert f"{corpus}, line 2: 'text' must be text, not 5\n{corpus}, line 3: is not JSON" in result.stderr
    assert "Error: 2 bad line(s), nothing was indexed; --skip-bad" in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()
    result = run("index", corpus, "--out", out, "--skip-bad")
    assert result.exit_code == 0
    assert "line 3" in result.stderr
    assert "2 passages read, 2 bad line(s) left out, 2 of them new" in result.stdout


def test_many_bad_lines_are_counted_not_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("{}\n" * 25)
    result = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
    assert result.stderr.count("no '_id'") == 10
    assert "and 15 more bad lines" in result.stderr
    assert "25 bad line(s)" in result.stderr


def test_a_file_without_passages(run: Run, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("\n\n")
    result = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
    assert (result.exit_code, result.stderr) == (1, f"Error: {tmp_path / 'corpus.jsonl'} holds no passage\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "no-such-index", "q"], 1, "no-such-index"),
        (["search", "INDEX", "q", "--filter", '{"pep": {"$near": 3}}'], 1, "$near"),
        (["search", "INDEX", "q", "--model", "no/such-model"], 1, "no/such-model"),
        (["search", "INDEX", "q", "--filter", "{pep: 3}"], 2, "is not JSON"),
        (["search", "INDEX", "q", "--filter", "[3]"], 2, "no JSON object"),
        (["search", "INDEX", "q", "--filter", '{"pep": {"$gt": 3}, "pep": 4}'], 2, "has the key 'pep' twice"),
        (["search", "INDEX", "q", "--route-k", "0"], 2, "'0' is neither"),
        (["search", "INDEX", "q", "--route-k", "most"], 2, "'most' is neither"),
        (["search", "INDEX", "q", "-k", "-1"], 2, "-1"),
        (["search", "INDEX"], 2, "Missing argument 'QUERY'"),
        (["index", "no-such.jsonl", "--out", "x"], 2, "no-such.jsonl"),
        (["index"], 2, "Missing argument"),
        (["serch"], 2, "No such command 'serch'"),
    ],
)
def test_trouble_is_one_clear_message(run: Run, index: Path, arguments: list[str], code: int, message: str) -> None:
    """Exit code 1 for bad input and 2 for usage; no traceback."""
    result = run(*[str(index) if one == "INDEX" else one for one in arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


def test_what_passages_hold_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    passage = {"_id": "\x1b[2J", "title": "[bold]\x9b31m", "text": "evil \x1b]0;title\x07 words"}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(passage))
    assert run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index").exit_code == 0
    result = run("search", tmp_path / "index", "evil \x1b[31m words")
    assert "[bold]�31m  �[2J" in result.stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(result.output)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"_id": "a", "text": "x", "\x1b": 1}) + "\nbad \x1b[2J")
    bad = run("index", tmp_path / "bad.jsonl", "--out", tmp_path / "other")
    assert bad.exit_code == 1
    assert "\x1b" not in bad.output


def test_an_output_that_lacks_characters_gets_the_others(run: Run, tmp_path: Path) -> None:
    """As on Windows, where a file that output goes to is in the encoding of the system."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "a", "title": "Café", "text": "The menu says 鮭."}))
    assert run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index").exit_code == 0
    narrow = CliRunner(charset="cp1252")
    shown = narrow.invoke(main, ["search", str(tmp_path / "index"), "menu"])
    assert (shown.exit_code, "Café  a\n    The menu says ?." in shown.stdout) == (0, True), shown.output
    told = narrow.invoke(main, ["search", str(tmp_path / "index"), "menu", "--json"])
    assert json.loads(told.stdout)["hits"][0]["text"] == "Café\nThe menu says 鮭."
    assert told.stdout.isascii()


@pytest.mark.parametrize("columns", ["0", "3"])
def test_a_terminal_of_hardly_any_columns(run: Run, index: Path, columns: str) -> None:
    result = run("search", index, "zip", env={"COLUMNS": columns, "FORCE_COLOR": "1"})
    assert (result.exit_code, "zip" in result.stdout) == (0, True), result.output


def test_without_standard_error_it_works_and_without_output_it_says_so(
    run: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs without a console have neither."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "a", "text": "A text."}))
    monkeypatch.setattr("sys.stderr", None)
    main(["index", str(tmp_path / "corpus.jsonl"), "--out", str(tmp_path / "index")], standalone_mode=False)
    with FastLaneIndex.open(tmp_path / "index") as opened:
        opened.ingest(Document(f"n{n}", f"Text {n}.") for n in range(3))
        assert len(opened) == 4
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(ClickException, match=r"sys\.stdout"):
        main(["export", str(index)], standalone_mode=False)


def test_debug_shows_where(run: Run, tmp_path: Path) -> None:
    result = run("--debug", "search", tmp_path, "q")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "IndexNotFoundError"


def test_the_codec_is_chosen_when_an_index_is_made(run: Run, tmp_path: Path, passages: Passages) -> None:
    """Another codec than an index has is refused, and so is an unknown one."""
    corpus = tmp_path / "two.jsonl"
    corpus.write_text("".join(json.dumps(p) + "\n" for p in passages[:2]))
    first = run("index", corpus, "--out", tmp_path / "index", "--codec", "fp16")
    assert first.exit_code == 0, first.output
    assert json.loads(run("stats", tmp_path / "index", "--json").stdout)["codec"] == "fp16"
    again = run("index", corpus, "--out", tmp_path / "index", "--codec", "residual2")
    assert again.exit_code == 1
    assert "was made with codec='fp16', not 'residual2'; leave codec out to go on with it" in again.stderr
    unknown = run("index", corpus, "--out", tmp_path / "other", "--codec", "zip")
    assert unknown.exit_code == 1
    assert "'zip'" in unknown.stderr


def test_a_bound_on_passages_is_kept_and_what_it_cuts_is_told_once(run: Run, tmp_path: Path) -> None:
    lines = [json.dumps({"_id": str(i), "text": "word " * 700}) for i in range(3)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    out = tmp_path / "index"
    result = run("index", tmp_path / "long.jsonl", "--out", out, "--max-document-tokens", 600)
    assert result.exit_code == 0
    assert result.stderr.count("Warning: 3 documents are longer than 600 tokens") == 1
    assert "the last 306 tokens" in result.stderr
    assert json.loads(run("stats", out, "--json").stdout)["max_document_tokens"] == 600
