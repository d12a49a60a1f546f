"""The run on a CUDA device: without one, and with tiny inputs in Triton's interpreter."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import tables
import torch

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.importorskip("triton", reason="the kernels for CUDA need triton")


def run(*arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, gpu.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_ends_well(tmp_path: Path) -> None:
    assert "there is no CUDA device here" in run("--json", str(tmp_path / "gpu.json"))
    assert not list(tmp_path.iterdir())
    assert "Not measured" in tables.gpu(tmp_path)


@pytest.mark.slow
def test_every_step_runs_in_the_interpreter(tmp_path: Path) -> None:
    run("--interpret", "--json", str(tmp_path / "gpu.json"))
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["interpreted"]
    assert [name for name, step in report["steps"].items() if "failed" in step] == []
    assert len(report["steps"]["kernels"]["shapes"]) == 10
    assert len(report["steps"]["8 documents resident"]["batches"]) == 2
    assert "records nothing" in report["steps"]["8 documents resident"]["one query as a CUDA graph"]["left_out"]
    shown = tables.gpu(tmp_path)
    assert "| ms, as a CUDA graph |" in shown
    assert "| 8 | 512 |" in shown
    assert "| codes | 64 x 32 |" in shown
    assert "document tokens encoded a second" in shown


@pytest.mark.slow
def test_a_run_that_is_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    run("--interpret", "--minutes", "0", "--json", str(tmp_path / "gpu.json"))
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {tuple(step) for step in steps.values()} == {("left_out",)}
    assert "gpu.json" in tables.gpu(tmp_path)
