"""`--device` of the commands, on a machine without CUDA."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fastlane_rag import FastLaneIndex
from fastlane_rag.cli import main

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("command", ["index", "search", "serve"])
def test_a_device_that_is_not_there_is_told_in_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "Cats purr."}\n')
    index = str(tmp_path / "index")
    if command != "index":
        FastLaneIndex.create(index, dim=8).close()
    arguments = {
        "index": [str(tmp_path / "corpus.jsonl"), "--out", index],
        "search": [index, "cats"],
        "serve": [index],
    }
    result = CliRunner().invoke(main, [command, *arguments[command], "--device", "cuda:1"])
    assert result.exit_code == 1
    assert "device='cuda:1'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert command != "index" or not Path(index).exists()


def test_the_doctor_says_what_a_device_is_too_old_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Tesla T4 {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    result = CliRunner().invoke(main, ["doctor", "--json"])
    said = {finding["subject"]: finding for finding in json.loads(result.stdout)}["device"]
    assert said["level"] == "warning"
    assert said["detail"].startswith("Tesla T4 0: ")
