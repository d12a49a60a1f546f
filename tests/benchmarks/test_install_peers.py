"""The script that installs peers, without installing any."""

import json
import sys
from pathlib import Path

import install_peers
import pytest


def test_requirements_are_read_without_comments(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# why\n\nnumpy>=1.26  # any\ntorch==2.11.0\n")
    assert install_peers.requirements(tmp_path / "r.txt") == ["numpy>=1.26", "torch==2.11.0"]
    assert install_peers.name_of("late-interaction-kernels==0.4.5") == "late-interaction-kernels"
    with pytest.raises(ValueError, match="names no package"):
        install_peers.name_of("==1")


def test_what_cannot_be_imported_is_recorded_with_the_reason() -> None:
    python = Path(sys.executable)
    assert install_peers.check(python, "numpy").keys() == {"version"}
    assert "No module named 'no_such_engine'" in install_peers.check(python, "no-such-engine")["error"]


def test_one_package_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip refuses one of three requirements; another installs and cannot be imported."""

    def pip(python: Path, *arguments: str) -> str | None:
        return "No matching distribution found for fast-plaid" if any("fast-plaid" in a for a in arguments) else None

    def check(python: Path, package: str) -> dict[str, str]:
        return {"error": "ended with -11: "} if package == "xtr-warp-rs" else {"version": "1.0"}

    monkeypatch.setattr(install_peers, "pip", pip)
    monkeypatch.setattr(install_peers, "check", check)
    monkeypatch.setattr(install_peers.venv, "create", lambda folder, with_pip: None)
    monkeypatch.setattr(sys, "argv", ["install_peers.py", "--into", str(tmp_path), "--only", "plaid"])
    assert install_peers.main() == 1
    packages = json.loads((tmp_path / "peers.json").read_text())["plaid"]["packages"]
    assert packages["fast-plaid"] == {"error": "No matching distribution found for fast-plaid"}
    assert packages["xtr-warp-rs"] == {"error": "ended with -11: "}
    assert packages["torch"] == {"version": "1.0"}
    assert "NOT INSTALLED: No matching distribution" in capsys.readouterr().out
