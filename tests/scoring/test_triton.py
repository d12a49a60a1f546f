"""The Triton kernels in Triton's interpreter, which runs them on a CPU."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The dev group installs triton on Linux x86-64: there these tests fail without it.
if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.importorskip("triton", reason="the kernels for CUDA need triton")


@pytest.mark.parametrize(
    "selection",
    [
        "triton and not (d39x1 or d5x40 or d4x180 or d6x64 or costs_little or threads_change)",
        pytest.param("triton", marks=pytest.mark.slow),
    ],
    ids=["small-shapes", "everything"],
)
def test_in_the_interpreter(selection):
    """Scores, maxima, selections, groups and gradients, against the same references as on the CPU."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the interpreting process")
    here = Path(__file__).parent
    tests = [str(here / name) for name in ("test_maxsim.py", "test_gradients.py", "test_codes.py")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", selection, *tests],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) > 200, result.stdout[-500:]
