"""The integrations pass their tests on the oldest and the newest frameworks their bounds allow."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"langchain": "langchain-core", "llama_index": "llama-index-core"}
# What only the tests use, of the same age as the oldest frameworks.
BESIDE_OLDEST = ["langchain-classic==1.0.0", "langchain-tests==1.0.0"]
BESIDE_NEWEST = ["langchain-classic", "langchain-tests", "langchain-text-splitters"]
# Compiled libraries that torch and the encoder have loaded must stay what they are.
KEPT = ["numpy", "pydantic", "fsspec"]
RUN = """
import sys, importlib.metadata, pytest
for name in sys.argv[1:]:
    print("running on", name, importlib.metadata.version(name))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/integrations"]))
"""


def requirement(folder: str, framework: str) -> str:
    """The bounds in the distribution's own metadata."""
    project = tomllib.loads((ROOT / "integrations" / folder / "pyproject.toml").read_text())["project"]
    return next(line for line in project["dependencies"] if line.startswith(framework))


def oldest(bounds: str) -> str:
    name, lower = re.fullmatch(r"([\w-]+)>=([\d.]+),<[\d.]+", bounds).groups()
    return f"{name}=={lower}"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_the_integrations_pass_on(end: str, tmp_path: Path) -> None:
    """Installed into a folder that comes before the environment; downloads some 60 MB."""
    bounds = [requirement(folder, framework) for folder, framework in FRAMEWORKS.items()]
    wanted = [oldest(one) for one in bounds] + BESIDE_OLDEST if end == "oldest" else bounds + BESIDE_NEWEST
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(f"{name}=={importlib.metadata.version(name)}" for name in KEPT))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path / "site", "-c", constraints]
    if end == "newest":
        install += ["--upgrade"]
    done = subprocess.run([*install, *wanted], capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip(f"no package index within reach: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *FRAMEWORKS.values()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    ran_on = dict(re.findall(r"^running on (\S+) (\S+)$", done.stdout, re.MULTILINE))
    for one in bounds:
        wanted_version = Requirement(oldest(one) if end == "oldest" else one)
        assert ran_on[wanted_version.name] in wanted_version.specifier
