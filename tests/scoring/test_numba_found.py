"""Without numba, or with one that does not load, scoring falls back."""

import importlib
import importlib.util
import warnings

import pytest

from fastlane_rag.scoring.numba_found import has_numba


@pytest.fixture(autouse=True)
def _afresh():
    has_numba.cache_clear()
    yield
    has_numba.cache_clear()


def test_a_numba_that_does_not_load_is_told_once(monkeypatch):
    """As beside a numpy that is too new for it."""
    pytest.importorskip("numba")

    def fail(name):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.warns(UserWarning, match=r"does not load \(Numba needs NumPy 2.0 or less\); torch stands in"):
        assert not has_numba()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not has_numba()


def test_no_numba_is_nothing_to_warn_of(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not has_numba()
