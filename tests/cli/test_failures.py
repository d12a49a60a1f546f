"""Commands fail in one line with a way out, before the slow part of their work."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlane_rag import FastLaneModel
from fastlane_rag.cli import main

ROOT = Path(__file__).parents[2]
# Nobody answers there, as where there is no network.
UNREACHABLE = "http://127.0.0.1:9"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def in_a_process(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, which may ask the hub."""
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables = kept | {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=100)


READING = [
    "search PATH query",
    "explain query --index PATH",
    "stats PATH",
    "verify PATH",
    "export PATH",
    "reindex PATH",
    "doctor --index PATH",
]


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("kind", ["missing", "a-file", "empty"])
def test_what_is_no_index_is_told_in_one_line(command: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    if kind == "a-file":
        path.write_text("not an index")
    elif kind == "empty":
        path.mkdir()
    result = run(*command.replace("PATH", str(path)).split())
    assert result.exit_code == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {path} holds no FastLane index")
    assert line.endswith("; fastlane index CORPUS --out DIR makes one")


@pytest.mark.parametrize("command", READING)
def test_a_missing_index_is_noticed_before_torch_is_loaded(command: str, tmp_path: Path) -> None:
    arguments = command.replace("PATH", str(tmp_path / "absent")).split()
    done = in_a_process(
        f"import sys\nfrom fastlane_rag.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as error:\n    print('ended with', error.code)\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    assert done.stdout.splitlines()[-2:] == ["ended with 1", "[]"], done.stdout + done.stderr


def test_a_model_that_nobody_can_reach_is_told_in_one_line() -> None:
    program = "from fastlane_rag.cli import main\nmain(['explain', 'query', '--model', 'someone/no-such-model'])"
    done = in_a_process(program, HF_ENDPOINT=UNREACHABLE)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "'someone/no-such-model': there is no such folder, and the Hugging Face hub cannot be reached" in line
    assert "Give the folder of a model" in line


def test_a_mistaken_path_is_no_name_of_the_hub() -> None:
    program = "from fastlane_rag.cli import main\nmain(['explain', 'query', '--model', './models/mine/'])"
    done = in_a_process(program, HF_ENDPOINT=UNREACHABLE)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "there is no such folder, and it is no name of the Hugging Face hub" in line


def test_a_model_in_the_hubs_cache_needs_no_network(tmp_path: Path) -> None:
    revision = "0" * 40
    cached = tmp_path / "models--someone--cached"
    FastLaneModel.from_pretrained().save(cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    program = (
        "from fastlane_rag import FastLaneModel\n"
        f"print(FastLaneModel.from_pretrained('someone/cached', cache_folder={str(tmp_path)!r}).dim)"
    )
    done = in_a_process(program, HF_ENDPOINT=UNREACHABLE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "192\n", "")


def test_the_folder_of_a_training_is_a_model(tmp_path: Path, model: FastLaneModel) -> None:
    """`train-router --out DIR` puts the model into DIR/model, beside its checkpoints."""
    model.save(tmp_path / "out" / "model")
    (tmp_path / "out" / "run.json").write_text("{}")
    opened = FastLaneModel.from_pretrained(tmp_path / "out")
    assert opened.fingerprint == model.fingerprint
    assert opened.name == str(tmp_path / "out")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset in BEIR's layout, of two passages."""
    folder = tmp_path / "dataset"
    (folder / "qrels").mkdir(parents=True)
    passages = [{"_id": str(n), "title": "", "text": f"Text {n}."} for n in range(2)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passages))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "Text"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder


@pytest.mark.parametrize(
    ("lacking", "extra", "command"),
    [
        ("ir_measures", "eval", "eval DATASET"),
        ("Stemmer", "eval", "eval DATASET"),
        ("faiss", "cpu", "eval DATASET --methods hnsw"),
        ("ir_datasets", "ir-datasets", "eval ir_datasets:beir/scifact/test"),
        ("datasets", "train", "train DATASET/corpus.jsonl"),
        ("yaml", "train", "train-router --model default --corpus DATASET/corpus.jsonl --out OUT"),
        ("langchain_fastlane", "langchain", "demo"),
        ("llama_index.retrievers.fastlane", "llama-index", "demo"),
    ],
)
def test_every_command_checks_its_extras_first(
    lacking: str, extra: str, command: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("fastlane_rag.cli.extras.find_spec", lambda name: None if name == lacking else find(name))
    monkeypatch.setattr(FastLaneModel, "from_pretrained", None)
    arguments = command.replace("DATASET", str(dataset)).replace("OUT", str(dataset / "out")).split()
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    assert lacking in line
    assert line.endswith(f"pip install 'fastlane-rag[{extra}]'")


def test_two_lines_with_one_id_are_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "First."}\n{"_id": "b", "text": "Other."}\n{"_id": "a", "text": "Second."}\n'
    )
    result = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
    assert result.exit_code == 1
    assert "corpus.jsonl, line 3: its id 'a' is that of line 1 already" in result.stderr
    assert "nothing was indexed" in result.stderr
    skipped = run("index", tmp_path / "corpus.jsonl", "--out", tmp_path / "index", "--skip-bad")
    assert "2 passages read, 1 bad line(s) left out, 2 of them new" in skipped.stdout
    exported = [json.loads(line)["text"] for line in run("export", tmp_path / "index").stdout.splitlines()]
    assert exported == ["First.", "Other."]
