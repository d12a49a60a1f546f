"""`fastlane doctor` on a sound installation and on broken ones."""

from importlib import metadata

import pytest
from click.testing import CliRunner

from fastlane_rag.cli import doctor, main


def test_a_sound_installation_is_all_well() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in (
        "fastlane-rag",
        "torch",
        "device",
        "threads",
        "kernels",
        "faiss",
        "model",
        "found the right passage",
        "all well",
    ):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"faiss-cpu", "faiss-gpu"}, "overwrite each other"),
        (set(), "pip install 'fastlane-rag[cpu]'"),
    ],
    ids=["both", "neither"],
)
def test_faiss_trouble_is_named(monkeypatch: pytest.MonkeyPatch, installed: set[str], message: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name.startswith("faiss"):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return "1.14.3"
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert message in " ".join(result.stdout.split())
    assert "1 problem(s) found" in result.stdout


def test_kernels_that_do_not_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlane_rag.scoring.native.library.problem", lambda: "the library is missing")
    found = list(doctor._kernels())
    assert [finding.level for finding in found] == ["warning"]
    assert "the library is missing; torch stands in" in found[0].detail


def test_a_model_that_does_not_open_hides_no_other_check(tmp_path: object) -> None:
    result = CliRunner().invoke(main, ["doctor", "--model", str(tmp_path)])
    assert result.exit_code == 1
    assert "ModelError" in result.stdout
    assert "faiss" in result.stdout
