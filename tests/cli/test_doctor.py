"""`fastlane doctor` on a sound installation and on broken ones."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlane_rag import FastLaneModel
from fastlane_rag.cli import doctor, main
from fastlane_rag.cli.extras import EXTRAS
from fastlane_rag.evaluation.speed import speeds


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
        "extras",
        "found the right passage",
        "document tokens a second, by onnx",
        "document tokens compared in",
    ):
        assert word in result.stdout


def test_two_distributions_of_faiss_are_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.14.3" if name.startswith("faiss") else real(name))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "overwrite each other" in " ".join(result.stdout.split())
    assert "1 problem(s) found" in result.stdout


def test_each_missing_extra_is_named_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlane_rag.cli.extras.find_spec", lambda name: None)
    found = {finding.detail for finding in doctor._extras()}
    assert len(found) == len(EXTRAS)
    for name, extra in EXTRAS.items():
        [detail] = [one for one in found if one.startswith(f"[{name}] ")]
        assert extra.without in detail
        assert detail.endswith(f"pip install 'fastlane-rag[{name}]'")


def test_the_extras_are_those_of_the_package() -> None:
    declared = set(metadata.metadata("fastlane-rag").get_all("Provides-Extra"))
    assert set(EXTRAS) == declared - {"gpu"}


def test_searching_by_torch_is_a_warning_with_its_time() -> None:
    """`all well` is said only where the compiled kernels run."""
    environment = os.environ | {"FASTLANE_NATIVE_LEVEL": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "fastlane_rag", "doctor", "--json"], capture_output=True, text=True, env=environment
    )
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert found["search speed"]["level"] == "warning"
    assert "by torch, for want of compiled kernels" in found["search speed"]["detail"]
    assert found["search speed"]["figures"]["search_ms"] > 0
    assert found["kernels"]["level"] == "warning"


def test_encoding_by_torch_is_a_warning_that_names_the_extra() -> None:
    model = FastLaneModel.from_pretrained(backend="torch")
    finding = next(speeds(model))
    assert finding.level == "warning"
    assert "by torch on cpu" in finding.detail
    assert "[cpu]" in finding.detail
    assert finding.figures["query_ms"] > 0


def test_a_quota_below_the_threads_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlane_rag.scoring.quota.cpu_quota", lambda: 0.5)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    [finding] = doctor._threads()
    assert finding.level == "warning"
    assert "the container's quota is 0.5 processor(s)" in finding.detail
    assert "set OMP_NUM_THREADS=1" in finding.detail


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no query"),
        (b"\x80\n", "byte 0 is no UTF-8"),
        (b'{"text": "one"}\n{"_id": "2"}\n', "line 2: no 'text'"),
        (b'{"text": "one"}\n{"text"\n', "line 2: is not JSON"),
    ],
)
def test_what_is_wrong_with_questions_is_told_of_their_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "questions").write_bytes(content)
    result = CliRunner().invoke(main, ["doctor", "--index", "absent", "--queries", str(tmp_path / "questions")])
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert f"{tmp_path / 'questions'}" in line
    assert message in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_questions_may_have_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    """The mark hid that the lines were JSON, and they were asked as they stand."""
    (tmp_path / "plain").write_bytes("Wo ist Zürich?\n\nwhere\n".encode(encoding))
    assert doctor._read_queries(tmp_path / "plain") == ["Wo ist Zürich?", "where"]
    (tmp_path / "lines").write_bytes('{"text": "Wo?"}\n'.encode(encoding.replace("16", "8")))
    assert doctor._read_queries(tmp_path / "lines") == ["Wo?"]


def test_a_finding_is_one_line_however_long(model: FastLaneModel, tmp_path: Path) -> None:
    folder = tmp_path / ("a long name " * 12)
    result = CliRunner().invoke(main, ["doctor", "--model", str(folder)])
    assert any(str(folder) in line for line in result.stdout.splitlines())
