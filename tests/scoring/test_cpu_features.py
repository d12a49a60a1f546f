"""The compiled kernels as other processors would run them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the compiled kernels need numba")

X86 = {
    "avx2": ("+sse2,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c", True),
    "avx": ("+sse2,+ssse3,+sse4.1,+sse4.2,+avx,+f16c", True),
    "no-f16c": ("+sse2,+ssse3,+sse4.1,+sse4.2", False),
}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 features")
@pytest.mark.parametrize("name", X86)
def test_with_fewer_instructions(name):
    """Narrower vectors, smaller tiles; without hardware for float16, torch."""
    features, compiles = X86[name]
    here = Path(__file__).parent
    environment = os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features, "OMP_NUM_THREADS": "1"}
    probe = (
        "import torch; from fastlane_rag.scoring import cpu_backend as b;"
        "print(b.supports(torch.empty(1, 4), torch.empty(1, 4)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], env=environment, cwd=here.parents[1], capture_output=True, text=True
    )
    assert found.stdout.strip() == str(compiles), found.stderr
    tests = [str(here / file) for file in ("test_maxsim.py", "test_codes.py", "test_threads.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "compiled or thread", *tests]
    result = subprocess.run(command, env=environment, cwd=here.parents[1], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
