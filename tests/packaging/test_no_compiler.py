"""The kernels are built where there is no C++ compiler: pip then brings one for the build."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCORE = (
    "import fastlane_rag, torch; from fastlane_rag.scoring import maxsim\n"
    "from fastlane_rag.scoring.native import kernels\n"
    "print(fastlane_rag.__file__, kernels.level(), maxsim(torch.eye(2), torch.eye(2)[None])[0].tolist())\n"
)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a PATH without a compiler is made of links")
def test_a_path_without_a_compiler(tmp_path: Path) -> None:
    """With Python and a shell alone, as on a bare server; the versions of the build are those of constraints.txt."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    unset = ("CXX", "CC", "FASTLANE_COMPILER", "FASTLANE_ZIG_TARGET")
    bare = {name: value for name, value in os.environ.items() if name not in unset} | {"PATH": str(tools)}
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--build-constraint", "constraints.txt"]
    done = subprocess.run([*pip, "-w", tmp_path, ROOT], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("fastlane_rag-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    alone = bare | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-W", "error::RuntimeWarning", "-c", SCORE]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, level, scores = done.stdout.split(" ", 2)
    assert file.startswith(str(tmp_path / "site"))
    assert level != "none"
    assert scores == "[2.0]\n"
