"""The CUDA kernels compile without a device, to the machine code that benchmarks/results/kernel_code.json describes.

The interpreter does not check what the compiler does: layouts, shared memory, unsupported operations.
"""

import json
import platform
import sys
from pathlib import Path

import pytest

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.importorskip("triton", reason="the kernels for CUDA need triton")

import kernel_code

RECORDED = json.loads((Path(kernel_code.__file__).parent / "results" / "kernel_code.json").read_text())
SHARED_BYTES = 96 * 1024  # what the smaller devices of compute capability 8.0 and later have

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("capability", kernel_code.CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("name", RECORDED["kernels"])
def test_compiles_to_what_is_recorded(name, capability):
    import triton

    found = kernel_code.measured(kernel_code.kernels()[name], capability)
    assert found["shared_bytes"] <= SHARED_BYTES
    expected = RECORDED["kernels"][name][f"sm_{capability}"]
    if triton.__version__ == RECORDED["triton"]:
        assert found == expected


def test_every_kernel_is_recorded():
    assert set(RECORDED["kernels"]) == set(kernel_code.kernels())


def test_the_kernel_over_codes_does_less_than_one_that_decodes():
    """Its products of bytes take fewer instructions a token than products of rows of 16 bits."""
    codes, rows = (
        RECORDED["kernels"][name] for name in ("4-bit codes, 1 x 32 tokens", "fp32 queries, fp16 rows, 1 x 32 tokens")
    )
    for target, counts in codes.items():
        assert counts["instructions_a_token"] < rows[target]["instructions_a_token"]
