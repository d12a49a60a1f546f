"""Every documented call passes mypy --strict and pyright, without plugins and as a user's project has them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).with_name("typed_calls.py")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the calls, and no configuration of this repository."""
    (tmp_path / "typed_calls.py").write_text(CALLS.read_text())
    return tmp_path


def wrong(project: Path, line: str) -> None:
    """Add a call that is wrong."""
    with (project / "typed_calls.py").open("a") as file:
        file.write(f"\n\ndef wrong(index: FastLaneIndex) -> None:\n    {line}\n")


def mypy(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(project / "cache"), "typed_calls.py"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def pyright(project: Path) -> list[str]:
    """Messages of errors. basedpyright is pyright with its Node.js in the wheel."""
    pytest.importorskip("basedpyright")
    (project / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "typed_calls.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [f"{one['range']['start']['line'] + 1}: {one['message']}" for one in found if one["severity"] == "error"]


@pytest.mark.slow
def test_mypy_takes_every_call_and_refuses_wrong_ones(project: Path) -> None:
    done = mypy(project)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong(project, 'index.search("query", hybird=True)')
    done = mypy(project)
    assert "hybird" in done.stdout
    assert done.returncode == 1


@pytest.mark.slow
def test_pyright_takes_every_call_and_refuses_wrong_ones(project: Path) -> None:
    assert pyright(project) == []
    wrong(project, 'FastLaneReranker(model="path", top_k=3)')
    [found] = pyright(project)
    assert "top_k" in found
