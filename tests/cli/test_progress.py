"""What a terminal shows while passages are indexed: life at once, a rate, and one line after Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlane_rag import FastLaneModel
from fastlane_rag.progress import listening

pty = pytest.importorskip("pty")
ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A process whose stderr is a terminal."""

    def __init__(self, *arguments: object) -> None:
        self._terminal, inner = pty.openpty()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
        command = [sys.executable, "-m", "fastlane_rag", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=inner, env=environment)
        os.close(inner)
        self.shown = ""

    def read(self, until: str | None = None) -> str:
        """What it shows until it ends, or until this text is there; without control sequences."""
        while until is None or until not in self.shown:
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # closed
                break
            if not data:
                break
            self.shown = CONTROL.sub("", self.shown + data.decode(errors="replace"))
        return self.shown


def written(path: Path, passages: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in passages))
    return path


@pytest.fixture
def corpus(tmp_path: Path, passages: list[dict[str, str]]) -> Path:
    return written(tmp_path / "corpus.jsonl", sorted(passages, key=lambda one: len(one["text"]))[:128])


def test_it_shows_life_while_the_model_loads_and_moves_within_a_write(corpus: Path, tmp_path: Path) -> None:
    terminal = Terminal("index", corpus, "--out", tmp_path / "index")
    shown = terminal.read()
    assert terminal.process.wait() == 0, shown
    assert shown.index("Loading the model") < shown.index("Indexing")
    steps = {int(count) for count in re.findall(r"(\d+)/128", shown)}
    assert len(steps - {0, 128}) > 1, "the bar moves before the first write ends"
    assert re.search(r"\d/s", shown)
    assert re.search(r"128 documents encoded in [\d.]+ s: [\d.,]+ documents/s", shown)


def test_ctrl_c_prints_one_line(tmp_path: Path, passages: list[dict[str, str]]) -> None:
    """Of a corpus that takes long after the bar first moved."""
    corpus = written(tmp_path / "long.jsonl", sorted(passages, key=lambda one: -len(one["text"]))[:1000])
    terminal = Terminal("index", corpus, "--out", tmp_path / "index", "--batch-size", 4)
    terminal.read(until="Indexing")
    time.sleep(0.1)
    terminal.process.send_signal(signal.SIGINT)
    shown = terminal.read()
    assert terminal.process.wait() == 130
    assert shown.count("interrupted; ") == 1
    assert shown.rstrip().endswith("the same command goes on from there")
    assert "Aborted" not in shown
    assert "Traceback" not in shown


def test_a_model_tells_how_many_texts_it_has_encoded(model: FastLaneModel) -> None:
    told: list[int] = []
    long = "a longer text than one window holds " * 200
    with listening(told.append):
        model.encode_documents([f"text {n}" for n in range(40)] + [long], batch_size=8)
        model.encode_documents(["one more"])
    assert sum(told) == 42
    assert len(told) == 7
    model.encode_documents(["nobody listens"])
    assert sum(told) == 42
