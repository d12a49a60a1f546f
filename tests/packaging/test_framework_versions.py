"""make test-all runs the integrations on the oldest and the newest frameworks their bounds allow."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"langchain": "langchain-core", "llama_index": "llama-index-core"}


def bounds(folder: str) -> Requirement:
    """The framework in the distribution's own metadata."""
    project = tomllib.loads((ROOT / "integrations" / folder / "pyproject.toml").read_text())["project"]
    requirements = map(Requirement, project["dependencies"])
    return next(one for one in requirements if one.name == FRAMEWORKS[folder])


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("folder", FRAMEWORKS)
def test_the_floor_is_the_lower_bound_users_get(folder: str) -> None:
    wanted = bounds(folder)
    (lower,) = [one.version for one in wanted.specifier if one.operator == ">="]
    pinned = pins("constraints-floor.txt")[wanted.name]
    assert pinned in wanted.specifier
    assert pinned.split(".")[: len(lower.split("."))] == lower.split(".")
    assert re.fullmatch(r"[\d.]+\.0", pinned)


@pytest.mark.parametrize("name", FRAMEWORKS.values())
def test_the_default_run_is_on_a_newer_framework_than_the_floor(name: str) -> None:
    assert pins("constraints.txt")[name] not in (None, pins("constraints-floor.txt")[name])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_test_all_runs_both_ends(tmp_path: Path) -> None:
    """What it would run, for environments that are not there yet."""
    command = ["make", "--dry-run", "test-all", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for end in ("floor", "newest"):
        environment = f"{tmp_path / 'venv'}-{end}"
        assert re.search(
            rf"FASTLANE_FRAMEWORKS={end} {environment}/bin/python -m pytest .*tests/integrations", done.stdout
        )
        assert re.search(rf"{environment}/bin/python -m pip install .* -c {environment}/constraints.txt", done.stdout)
    upgrade = rf"-newest/bin/python -m pip install .*--upgrade .*{' '.join(FRAMEWORKS.values())}"
    assert re.search(upgrade, done.stdout)
    assert not list(tmp_path.iterdir())
