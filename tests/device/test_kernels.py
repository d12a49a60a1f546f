"""The searches of the tests beside this with the kernels for CUDA, in Triton's interpreter."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.importorskip("triton", reason="the kernels for CUDA need triton")


@pytest.mark.parametrize(
    "selection",
    [
        "by_some_tokens or no_number or filters or (streamed and 200 and 0.3) or recorded_searches_find",
        pytest.param("test", marks=pytest.mark.slow),
    ],
    ids=["some", "everything"],
)
def test_in_the_interpreter(selection):
    here = Path(__file__).parent
    tests = [str(here / name) for name in ("test_device.py", "test_recording.py")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selection, *tests],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
