"""`fastlane train` names what is wrong with a config."""

from pathlib import Path

from click.testing import CliRunner

from fastlane_rag.cli import main


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("output: out\nbach_size: 8\ndata: {train: {peps: {path: peps}}}\n")
    result = CliRunner().invoke(main, ["train", str(config)])
    assert result.exit_code == 1
    assert "bach_size" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("output: out\ndata: {train: {peps: {path: peps}}}\n")
    result = CliRunner().invoke(main, ["train", str(config)])
    assert result.exit_code == 1
    assert str(tmp_path / "peps") in result.stderr
