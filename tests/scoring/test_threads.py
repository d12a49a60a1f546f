"""Scoring from several threads, and with several threads."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fastlane_rag.scoring import cpu_backend, get_threads, maxsim, set_threads
from fastlane_rag.scoring.threads import run_ranges

numba = pytest.importorskip("numba", reason="only the compiled kernels start threads of their own")
cpu_team = pytest.importorskip("fastlane_rag.scoring.cpu_team")


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
    monkeypatch.setattr(cpu_backend, "_WORTH_A_THREAD", 1000)
    yield
    set_threads(None)


@pytest.mark.parametrize("threads", [2, 3, 16, 100])
def test_threads_change_no_bit(problem, threads):
    set_threads(1)
    alone = problem()
    set_threads(threads)
    assert torch.equal(problem(), alone)


@pytest.mark.parametrize("threads", [2, 3, 16, 100])
def test_threads_of_our_own_stand_in_for_openmps(problem, threads, monkeypatch):
    """Where torch has none, or one without the entry that is called."""
    set_threads(1)
    alone = problem()
    monkeypatch.setattr(cpu_team, "_team", lambda: 0)
    set_threads(threads)
    assert torch.equal(problem(), alone)


@numba.njit(nogil=True)
def fails_in_the_middle(first, last, marks):
    for i in range(first, last):
        if i == 5:
            raise ValueError
        marks[i] += 1


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_kernel_that_fails_is_noticed(threads):
    """The error itself stays in its thread: all that fails in the kernels is finding memory."""
    marks = np.zeros(20, np.int64)
    with pytest.raises(MemoryError, match="use fewer threads"):
        cpu_team.run(fails_in_the_middle, range(21), threads, (marks,))
    assert marks[5] == 0
    assert marks.max() == 1


def test_threads_follow_torch_unless_set():
    assert get_threads() == torch.get_num_threads()
    set_threads(5)
    assert get_threads() == 5
    set_threads(None)
    assert get_threads() == torch.get_num_threads()
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        set_threads(0)


def test_threads_beside_the_caller_start_none_of_torchs():
    """Each would have OpenMP start a team of its own, and with more threads than processors encoding slows down."""
    before, found = torch.get_num_threads(), {}
    torch.set_num_threads(3)
    try:
        run_ranges(lambda first, _: found.update({first: torch.get_num_threads()}), [0, 1, 2, 3])
        assert found == {0: 3, 1: 1, 2: 1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


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
