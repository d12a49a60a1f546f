"""Helpers of the tables: reading results, display names, Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Method = dict[str, Any]
_NAMES = {"dense": "dense, mean-pooled", "bm25": "BM25", "hybrid": "FastLane and BM25 (hybrid)"}


def judged(results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Datasets as in the report of `fastlane eval`, and sentences that say where they were measured."""
    steps = steps_of(results, "quality")
    if steps:
        return [step["results"] for step in steps.values()], [source("quality", steps)]
    reports = [(path, json.loads(path.read_text())) for path in sorted(results.glob("eval*.json"))]
    datasets = [dataset for _, report in reports for dataset in report["datasets"]]
    return datasets, [_eval_source(path, report) for path, report in reports]


def steps_of(results: Path, part: str) -> dict[str, Any]:
    """The steps of a part; empty if it was not run."""
    path = results / f"{part}.json"
    return dict(json.loads(path.read_text())["steps"]) if path.is_file() else {}


def source(part: str, steps: dict[str, Any]) -> str:
    """The command that measures a part, and where its steps were measured."""
    return f"`make reproduce PARTS={part}`, `{part}.json`: {places(steps)}."


def places(steps: dict[str, Any]) -> str:
    """The machines that steps were measured on, each once."""
    return "; ".join(dict.fromkeys(hardware(step["environment"]) for step in steps.values()))


def hardware(where: dict[str, Any]) -> str:
    """Machine, threads and commit in words."""
    machine = ", ".join(where["gpus"]) or f"{where['cpu']}, {where['cores']} core(s)"
    commit = where["commit"] or "unknown"
    dirty = "+" if commit.endswith("+") else ""
    return f"{machine}, {where['threads']} thread(s), torch {where['versions']['torch']}, commit {commit[:12]}{dirty}"


def _eval_source(path: Path, report: dict[str, Any]) -> str:
    where, model = report["environment"], report["model"]
    return f"`{where['command']}`, {hardware(where)}, model {model['name']} ({model['fingerprint'][:12]}), {path.name}"


def asked(datasets: Sequence[dict[str, Any]]) -> str:
    """The numbers of documents and queries, as text."""
    each = ", ".join(f"{d['name']} {d['documents']:,} / {d['queries']:,} {d['split']}" for d in datasets)
    return f"Documents / queries: {each}."


def method(dataset: dict[str, Any], name: str) -> Method | None:
    """A method's figures on a dataset."""
    return next((m for m in dataset["methods"] if m["method"] == name), None)


def label(name: str) -> str:
    """A method's display name."""
    return _NAMES.get(name, name.replace(" gather", ", unrefined").replace("fastlane", "FastLane"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def decimal(value: float | None) -> str:
    """A number with three decimals."""
    return "-" if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """A whole number."""
    return "-" if value is None else f"{value:,.0f}"
