"""A library that is missing, cut off or of another version: one warning that says what to do, and torch."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fastlane_rag.scoring.native import kernels, library

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the compiled kernels are not here")

PACKAGE = Path(library.__file__).parents[2]
SCORE = (
    "import torch; from fastlane_rag.scoring import maxsim\n"
    "from fastlane_rag.scoring.native import kernels\n"
    "rows, offsets = torch.eye(2), torch.tensor([0, 1, 2])\n"
    "for _ in range(2):\n"
    "    print(maxsim(rows, rows, document_offsets=offsets).tolist(), kernels.level())\n"
)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package."""
    left_out = shutil.ignore_patterns("__pycache__", "src", "default", "*.gz")
    return Path(shutil.copytree(PACKAGE, tmp_path / "site" / PACKAGE.name, ignore=left_out))


def run(folder: Path, program: str = SCORE) -> tuple[str, str]:
    """What a program that imports the package from a folder or a zip file prints."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def falls_back(folder: Path, reason: str) -> None:
    """Torch scores, and one warning gives the reason and what to do."""
    printed, warned = run(folder)
    assert printed == "[[1.0, 1.0]] none\n" * 2
    assert warned.count("RuntimeWarning") == 1
    assert reason in warned
    assert "install fastlane-rag again (in a checkout: make setup)" in warned


def test_it_is_there(copy):
    assert run(copy.parent) == (f"[[1.0, 1.0]] {kernels.levels()[0]}\n" * 2, "")


def test_none(copy):
    (copy / "scoring/native" / library._NAME).unlink()
    falls_back(copy.parent, f"there is no {copy / 'scoring/native' / library._NAME}")


@pytest.mark.parametrize("share", [0, 10, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_one(copy, share):
    """Also where loading it would end the process."""
    file = copy / "scoring/native" / library._NAME
    data = file.read_bytes()
    file.write_bytes(data[: share if share > 1 else int(len(data) * share)])
    falls_back(copy.parent, "the library of compiled kernels" if sys.platform != "linux" else "it ends too early")


def test_something_else(copy):
    (copy / "scoring/native" / library._NAME).write_bytes(b"#!/bin/sh\n" * 100)
    falls_back(copy.parent, "the library of compiled kernels")


@pytest.mark.parametrize("line", ['__version__ = "9.9"', "ABI = 999"])
def test_one_of_another_version(copy, line):
    name = line.split(" ")[0]
    for file in (copy / "__init__.py", copy / "scoring/native/library.py"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line if one.startswith(f"{name} = ") else one for one in lines))
    falls_back(copy.parent, "is of fastlane-rag")


def test_from_a_zip_file_and_without_sources(copy, tmp_path):
    """Deployments as people make them."""
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in copy.rglob("*"):
            target.write(file, file.relative_to(copy.parent))
    assert run(archive)[0] == f"[[1.0, 1.0]] {kernels.levels()[0]}\n" * 2
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", copy], check=True)
    for file in copy.rglob("*.py"):
        file.unlink()
    assert run(copy.parent)[0] == f"[[1.0, 1.0]] {kernels.levels()[0]}\n" * 2


@pytest.mark.skipif(sys.platform != "linux", reason="sets Linux's limit of memory")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_to_work_in(threads):
    """An error that says what to do, and the next call scores."""
    program = (
        "import resource, torch\n"
        "from fastlane_rag.scoring import maxsim, set_threads\n"
        f"set_threads({threads})\n"
        "rows, query = torch.zeros(1 << 20, 64).half(), torch.ones(3, 64)\n"
        "offsets = torch.tensor([0, 1 << 19, 1 << 20])\n"
        "before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), before[1]))\n"
        "try:\n"
        "    maxsim(query, rows, document_offsets=offsets)\n"
        "except MemoryError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_AS, before)\n"
        "print(maxsim(query, rows, document_offsets=offsets).tolist())\n"
    )
    printed, _ = run(PACKAGE.parent, program)
    assert printed.startswith("there is no memory left to score in: use fewer threads")
    assert printed.endswith("\n[[0.0, 0.0]]\n")


def test_no_documents():
    """Of every kind of rows: no score."""
    from fastlane_rag.scoring import maxsim, token_maxima

    none, query = torch.tensor([0]), torch.ones(3, 8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rows = torch.empty(0, 8, dtype=dtype)
        assert maxsim(query, rows, document_offsets=none).shape == (1, 0)
        assert token_maxima(query, rows, none)[1].shape == (0, 3)
