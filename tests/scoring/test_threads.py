"""Scoring from several threads, and with several threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fastlane_rag.scoring import get_threads, maxsim, set_threads
from fastlane_rag.scoring.native import kernels, library

pytestmark = pytest.mark.skipif(not kernels.available(), reason="only the compiled kernels start threads of their own")


@pytest.fixture
def offsets():
    return torch.randint(1, 40, (60,), generator=torch.Generator().manual_seed(0)).cumsum(0)


@pytest.fixture
def problem(offsets):
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), offsets])
    rows = torch.randn(int(offsets[-1]), 24, generator=torch.Generator().manual_seed(1)).half()
    query = torch.randn(9, 24, generator=torch.Generator().manual_seed(2))
    return lambda: maxsim(query, rows, document_offsets=offsets)


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.setattr(kernels, "_WORTH_A_THREAD", 1000)
    yield
    set_threads(None)


@pytest.fixture
def _own_threads():
    """OpenMP's team is taken away."""
    found = library.library()
    found.fastlane_use_openmp(None)
    yield
    found.fastlane_use_openmp(library._openmp())


@pytest.mark.parametrize("threads", [2, 3, 16, 100])
def test_threads_change_no_bit(problem, threads):
    set_threads(1)
    alone = problem()
    set_threads(threads)
    assert torch.equal(problem(), alone)


@pytest.mark.usefixtures("_own_threads")
@pytest.mark.parametrize("threads", [2, 3, 16, 100])
def test_threads_of_our_own_stand_in_for_openmps(problem, threads):
    """Where torch has none, or one without the entry that is called."""
    set_threads(1)
    alone = problem()
    set_threads(threads)
    assert torch.equal(problem(), alone)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_callers_share_the_threads_that_one_of_them_asked_for():
    """Sixteen callers with eight threads each share seven helper threads, instead of making a hundred."""
    program = (
        "import threading, torch\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from fastlane_rag.scoring import maxsim, set_threads\n"
        "from fastlane_rag.scoring.native import kernels\n"
        "from pathlib import Path\n"
        "torch.set_num_threads(1); set_threads(8); kernels._WORTH_A_THREAD = 1\n"
        "rows, query = torch.rand(400, 16), torch.rand(4, 16)\n"
        "def ask(_): maxsim(query, rows, document_offsets=torch.arange(0, 401, 5))\n"
        "ask(0)\n"
        "before = len(list(Path('/proc/self/task').iterdir()))\n"
        "with ThreadPoolExecutor(16) as callers:\n"
        "    list(callers.map(ask, range(400)))\n"
        "    print(len(list(Path('/proc/self/task').iterdir())) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 16 + 7


def test_threads_follow_torch_unless_set():
    assert get_threads() == torch.get_num_threads()
    set_threads(5)
    assert get_threads() == 5
    set_threads(None)
    assert get_threads() == torch.get_num_threads()
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        set_threads(0)


def test_callers_in_many_threads_do_not_disturb_each_other(problem):
    set_threads(2)
    expected = problem()
    with ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda _: problem(), range(64)))
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scores(problem):
    """The child inherits the pool object without its threads and must not wait for them."""
    set_threads(2)
    expected = problem()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if torch.equal(problem(), expected) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
