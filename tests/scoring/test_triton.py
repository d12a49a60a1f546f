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


@pytest.mark.parametrize("capability", [80, 90], ids=["sm80", "sm90"])
@pytest.mark.parametrize("dtypes", ["fp32-fp16", "fp32-fp32", "bf16-bf16", "fp32-u8"])
def test_compiles_without_a_device(dtypes, capability, draw_codes):
    """The interpreter does not check what the compiler does: layouts, shared memory, unsupported operations."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("interpreted kernels do not compile")
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastlane_rag.scoring.triton.backend import block_sizes
    from fastlane_rag.scoring.triton.kernels import maxsim_kernel

    names = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
    query, document = dtypes.split("-")
    rows = draw_codes(1, 128, 4) if document == "u8" else torch.empty(1, 128, dtype=names[document])
    blocks = block_sizes(names[query], rows, width=32, queries=32)
    options = {name: blocks.pop(name) for name in ("num_warps", "num_stages")}
    constants = {"DIM": 128, "SLOTS": 32, "GROUPED": False, "KEEP": True, "PRECISION": "tf32x3", **blocks}
    pointers = {"queries": query, "documents": document, "centroid_ids": "u16", "scales": "u8"}
    pointers |= dict.fromkeys(["weights", "scores", "values", "base", "steps"], "fp32")
    signature = {}
    for name in maxsim_kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("centroid_count", "query_count", "query_tokens", "document_count", "columns"):
            signature[name] = "i32"
        else:
            signature[name] = "*" + pointers.get(name, "i64")
    positions = {name: (at,) for at, name in enumerate(maxsim_kernel.arg_names)}
    source = ASTSource(
        maxsim_kernel,
        signature,
        constexprs={positions[name]: value for name, value in constants.items()},
        attrs={positions[n]: [["tt.divisibility", 16]] for n, kind in signature.items() if kind[0] == "*"},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert "mma" in compiled.asm["ptx"], "the tensor cores are not used"
    assert compiled.metadata.shared <= 96 * 1024
