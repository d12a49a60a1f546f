"""The example scripts run, and the notebooks are what their scripts say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def test_every_notebook_is_in_the_list():
    linked = set(re.findall(r"\]\((\w+)\.ipynb\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert linked == set(NAMES)
    assert len(NAMES) == 8


def cells_of_script(name: str) -> list[str]:
    """The source of each cell of a script in percent format, markdown without its comment signs."""
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    cells = []
    for kind, source in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script, re.MULTILINE | re.DOTALL):
        lines = source.strip().splitlines()
        cells.append("\n".join(re.sub(r"^# ?", "", line) for line in lines) if kind else "\n".join(lines))
    return cells


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_its_script_and_outputs(name):
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert ["".join(cell["source"]).strip() for cell in notebook["cells"]] == cells_of_script(name)
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert str(Path.home()) not in json.dumps(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_script_runs_without_a_network(name):
    """Its own asserts say whether it found what it should."""
    settings = {"HF_HUB_OFFLINE": "1", "FASTLANE_EXAMPLES_LLM": "", "FASTLANE_EXAMPLES_SQUAD": "absent"}
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=EXAMPLES,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
