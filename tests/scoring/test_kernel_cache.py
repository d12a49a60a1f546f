"""Kernels kept on disk by several processes find each other's parts by name."""

import pytest


@pytest.mark.parametrize("module", ["cpu_kernels", "cpu_code_kernels"])
def test_no_two_parts_of_the_kernels_have_one_name(module):
    """numba numbers functions a process, so a name alone told a scan from one that keeps where the maximum was."""
    pytest.importorskip("numba")
    from importlib import import_module

    kernels = import_module(f"fastlane_rag.scoring.{module}")
    scans = [kernels._scan_max.py_func, kernels._scan_argmax.py_func]
    assert [(scan.__name__, scan.__qualname__) for scan in scans] == [("scan_max",) * 2, ("scan_argmax",) * 2]
