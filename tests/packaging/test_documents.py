"""README.md, ARCHITECTURE.md and the pages in docs/ agree with code and results."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def render_readme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script benchmarks/render_readme.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("render_readme")


DOCUMENTS = ("README.md", "docs/figures.md")
RENDERED = ("README.md", "docs/cluster.md", "docs/encoding.md", "docs/figures.md", "docs/tuning.md", "docs/peers.md")


@pytest.mark.parametrize("name", RENDERED)
def test_the_figures_are_those_of_the_results(render_readme: ModuleType, name: str) -> None:
    text = (ROOT / name).read_text()
    assert render_readme.render(text) == text, "run python benchmarks/render_readme.py"


def test_a_changed_figure_is_noticed(render_readme: ModuleType) -> None:
    """The check above would fail on a number typed by hand, and on a table without its place."""
    assert render_readme.DOCUMENTS == RENDERED
    texts = [(ROOT / name).read_text() for name in RENDERED]
    render_readme.check_places(texts)
    typed = texts[0].replace("<!-- /figures:main -->", "| fastlane | .999 |\n<!-- /figures:main -->")
    assert render_readme.render(typed) == texts[0]
    with pytest.raises(ValueError, match=r"but not: main \(0\)"):
        render_readme.check_places(["# FastLane RAG\n", *texts[1:]])
    with pytest.raises(ValueError, match="'speed'"):
        render_readme.render("<!-- figures:speed -->\n<!-- /figures:speed -->\n")


def test_a_table_older_than_the_code_says_so(render_readme: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many commits of the search later a table is marked; without a history its mark stays."""
    table, ages = "| a |\n\ntorch 2, commit 0123456789ab+, a.json", {"0123456789ab": 51}
    monkeypatch.setattr(render_readme, "changes_since", ages.get)
    assert render_readme.TOLERANCE == 50
    assert render_readme.marked(table, "") == f"{table}\n\n{render_readme.OLDER}"
    ages["0123456789ab"] = 50
    assert render_readme.marked(table, render_readme.OLDER) == table
    ages.clear()
    assert render_readme.marked(table, "") == table
    assert render_readme.OLDER in render_readme.marked(table, render_readme.OLDER)


def test_commits_are_counted(render_readme: ModuleType) -> None:
    """The count of this repository's own commits, or none where it is shallow or no repository."""
    assert render_readme.changes_since("HEAD") in (0, None)
    assert render_readme.changes_since("0" * 40) is None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_figure_outside_the_tables_is_no_measurement(render_readme: ModuleType, name: str) -> None:
    """Whatever looks measured, a decimal fraction, a percentage or a time, stands in a table made from a file."""
    prose = render_readme.BLOCK.sub("", (ROOT / name).read_text())
    prose = re.sub(r"```.*?```|^ {4}.*$|`[^`]*`", "", prose, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"Python 3\.\d+|arXiv \d{4}\.\d+|Apache-2\.0|PEP \d+", "", prose)
    assert not re.findall(r"\d*\.\d+|\d+ ?%|\d+ ms\b|\d+ MRR", prose)


def test_tables_of_every_part(render_readme: ModuleType, tmp_path: Path) -> None:
    """Results of each part make a table that shows them; numbers worked out by hand."""
    where = {
        "cpu": "a CPU",
        "cores": 2,
        "gpus": [],
        "threads": 1,
        "commit": "0123456789abcdef+",
        "versions": {"torch": "2"},
    }
    tables = importlib.import_module("tables")

    def method(name: str, quality: float) -> dict[str, object]:
        metrics = dict.fromkeys(("nDCG@10", "RR@10", "R@10", "R@100"), quality)
        times = {"p50": 1.5, "p95": 2.5}
        return {"method": name, "metrics": metrics, "search_ms": times, "total_ms": times, "comparisons": 1000.0} | {
            "bytes_per_document": 2048.0
        }

    def judged(name: str, documents: int, full: float, one: float) -> dict[str, object]:
        methods = [method("dense", 0.5), method("full SumMaxSim", full), method("fastlane k=1", one)]
        facts = {"name": name, "documents": documents, "queries": 7, "split": "test", "methods": methods}
        return {"environment": where, "results": facts}

    steps = {"small": judged("small", 100, 0.8, 0.6), "large": judged("large", 5000, 0.4, 0.4)}
    (tmp_path / "quality.json").write_text(json.dumps({"steps": steps}))
    main_table = tables.main_table(tmp_path)
    assert "| full SumMaxSim | 0.600 | 1.5 | 2,048 |" in main_table
    assert "ms at 5,000" in main_table
    assert "commit 0123456789ab+" in main_table
    assert "worst on small, 75.0%" in tables.quality(tmp_path)
    assert "| k = 1 refined, of full SumMaxSim | 83.3% | 75.0% (small) | 2 |" in tables.acceptance(tmp_path)
    rows = [{"method": "dense", "MRR@10": 0.25, "nDCG@10": 0.3, "p50_ms": 2.0, "comparisons": 9.0}]
    rows[0]["published"] = {"MRR@10": 0.344}  # type: ignore[assignment]
    found = {"rows": rows, "queries": 500, "documents": 100000, "split": "test", "measured_in": where}
    (tmp_path / "paper.json").write_text(json.dumps({"steps": {"arxiv": {"results": found}}}))
    assert "| dense, mean-pooled | 0.250 | 0.300 | 2.0 | 1.0 | 9 | 0.344 | - |" in tables.paper(tmp_path)
    assert tables.sweep(tmp_path) == tables.NOT_MEASURED


def test_the_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "README.md", "exec")


def test_every_path_of_the_architecture_exists() -> None:
    named = set(re.findall(r"`((?:fastlane_rag|integrations|tests|benchmarks)/[\w./]*)`", _architecture()))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_part_is_in_the_architecture() -> None:
    """A new folder or module of the package must be described."""
    parts = {
        path for path in (ROOT / "fastlane_rag").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    names = {path.name for path in parts} - {"__init__.py", "__main__.py"}
    assert not [name for name in names if name not in _architecture()]


def _architecture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text()
