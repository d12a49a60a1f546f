"""Write the measured figures of benchmarks/results/ into README.md, between its markers.

python benchmarks/render_readme.py           # rewrite the tables
python benchmarks/render_readme.py --check   # exit code 1 when README.md differs from the results
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MEASURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "nDCG@10": lambda method: f"{method['metrics']['nDCG@10']:.3f}",
    "ms a query without encoding, p50": lambda method: f"{method['search_ms']['p50']:.1f}",
    "bytes a document": lambda method: _count(method["bytes_per_document"]),
}
NAMES = {"dense": "dense, mean-pooled", "bm25": "BM25"}


def quality(results: Path) -> str:
    """One table a measure from the results of `fastlane eval`: a row a method, a column a dataset."""
    reports = [json.loads(path.read_text()) for path in sorted(results.glob("eval*.json"))]
    datasets = [dataset for report in reports for dataset in report["datasets"]]
    if not datasets:
        return "Not measured yet."
    methods = list(dict.fromkeys(method["method"] for dataset in datasets for method in dataset["methods"]))
    refined = [name for name in methods if not name.endswith(" gather")]
    # Every k has the same index.
    stored = [name for name in refined if not name.startswith("fastlane") and name != "bm25"]
    stored += [name for name in refined if name.startswith("fastlane")][-1:]
    shown = dict(zip(MEASURES, (methods, refined, stored), strict=True))
    tables = [_table(name, show, shown[name], datasets) for name, show in MEASURES.items()]
    asked = ", ".join(f"{d['name']} {d['documents']:,} / {d['queries']:,} {d['split']}" for d in datasets)
    sources = [_source(report) for report in reports]
    return "\n\n".join([*tables, f"Documents / queries: {asked}.", *sources])


def _table(
    measure: str, show: Callable[[dict[str, Any]], str], methods: Sequence[str], datasets: Sequence[dict[str, Any]]
) -> str:
    rows = [_line([measure, *(d["name"] for d in datasets)]), "|---" * (len(datasets) + 1) + "|"]
    for name in methods:
        found = [next((m for m in d["methods"] if m["method"] == name), None) for d in datasets]
        label = NAMES.get(name, name.replace(" gather", ", unrefined").replace("fastlane", "FastLane"))
        rows.append(_line([label, *("-" if m is None else show(m) for m in found)]))
    return "\n".join(rows)


def _source(report: dict[str, Any]) -> str:
    where = report["environment"]
    commit = (where["commit"] or "unknown")[:12] + ("+" if (where["commit"] or "").endswith("+") else "")
    hardware = ", ".join(where["gpus"]) or f"{where['cpu']}, {where['cores']} core(s)"
    return (
        f"`{where['command']}`, {hardware}, {where['threads']} thread(s), torch {where['versions']['torch']}, "
        f"model {report['model']['name']} ({report['model']['fingerprint'][:12]}), commit {commit}"
    )


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def adapters(results: Path) -> str:
    """What the adapters cost above the engine, and calls one after another against together."""
    path = results / "adapters.json"
    if not path.exists():
        return "Not measured yet."
    report = json.loads(path.read_text())
    rows = [_line(["adapter", "ms above the engine"]), "|---|---|"]
    rows += [_line([f"{name.replace(' ', ' `', 1)}`", f"{added:.2f}"]) for name, added in report["overhead_ms"].items()]
    calls = [_line(["calls", "number", "one after another, s", "together, s"]), "|---|---|---|---|"]
    for one in report["together"]:
        calls.append(_line([one["calls"], one["count"], f"{one['sequential_s']:.2f}", f"{one['together_s']:.2f}"]))
    asked = f"{report['passages']:,} passages, {report['k']} hits, {report['reranked']} texts reranked."
    return "\n\n".join(["\n".join(rows), "\n".join(calls), asked, _source(report)])


TABLES: dict[str, Callable[[Path], str]] = {"quality": quality, "adapters": adapters}


def render(readme: str, results: Path = RESULTS) -> str:
    """The README with every marked block replaced.

    Raises:
        ValueError: a block's name is unknown, or a table has no block.
    """
    seen = set()

    def replace(block: re.Match[str]) -> str:
        name = block[1]
        if name not in TABLES:
            raise ValueError(f"README.md has a block {name!r}, there is no such table: {', '.join(TABLES)}")
        seen.add(name)
        return f"<!-- figures:{name} -->\n{TABLES[name](results)}\n<!-- /figures:{name} -->"

    rendered = re.sub(r"<!-- figures:(\S+) -->\n.*?<!-- /figures:\1 -->", replace, readme, flags=re.DOTALL)
    if missing := set(TABLES) - seen:
        raise ValueError(f"README.md has no block for {', '.join(sorted(missing))}")
    return rendered


def main() -> None:
    """Rewrite or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    rendered = render(path.read_text())
    if not check:
        path.write_text(rendered)
    elif rendered != path.read_text():
        sys.exit("README.md differs from benchmarks/results/: run python benchmarks/render_readme.py")


if __name__ == "__main__":
    main()
