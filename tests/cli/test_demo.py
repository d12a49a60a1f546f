"""`fastlane demo`, over fewer passages than it ships with."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlane_rag.cli import demo, main

Passages = list[dict[str, str]]


def test_the_demo_answers_through_both_frameworks(passages: Passages, tmp_path: Path) -> None:
    pytest.importorskip("langchain_fastlane")
    pytest.importorskip("llama_index.retrievers.fastlane")
    answers = {"pep584-1-0", "pep8-6-0"}
    chosen = [p for p in passages if p["id"] in answers] + sorted(passages, key=lambda p: len(p["text"]))[:30]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(p) + "\n" for p in chosen))
    result = CliRunner().invoke(main, ["demo", "--corpus", str(tmp_path / "corpus.jsonl"), "--route-k", "3"])
    assert result.exit_code == 0, result.output
    flat = " ".join(result.stdout.split())
    for question in (*demo.LANGCHAIN_QUESTIONS, *demo.LLAMA_INDEX_QUESTIONS):
        assert f"Q: {question}" in flat
    assert result.stdout.count("routed:") == len(demo.LANGCHAIN_QUESTIONS) + len(demo.LLAMA_INDEX_QUESTIONS)
    assert "parrot" in flat, "the stand-in model is named as one"
    assert "PEP 8: Style Guide for Python Code > Maximum Line Length" in flat
    for row in ("fastlane k=1", "fastlane k=3", "full SumMaxSim"):
        assert row in flat
    assert result.stdout.rstrip().splitlines()[-1].startswith("medians over")


def test_without_the_integrations_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "langchain_fastlane", None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert "pip install 'fastlane-rag[langchain]'" in result.stderr
