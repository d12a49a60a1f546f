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
COLUMNS = (
    "method",
    "nDCG@10",
    "MRR@10",
    "recall@10",
    "recall@100",
    "ms a query, p50 / p95",
    "without encoding",
    "comparisons a query",
    "bytes a document",
)


def quality(results: Path) -> str:
    """One table a dataset, from the results of `fastlane eval`."""
    reports = [json.loads(path.read_text()) for path in sorted(results.glob("eval*.json"))]
    return "\n\n".join(_report(report) for report in reports) or "Not measured yet."


def _report(report: dict[str, Any]) -> str:
    where = report["environment"]
    parts = []
    for dataset in report["datasets"]:
        asked = f"{dataset['queries']:,} {dataset['split']} queries"
        title = f"**{dataset['name']}**, {dataset['documents']:,} documents, {asked}"
        rows = [_line(COLUMNS), "|---" * len(COLUMNS) + "|", *(_row(method) for method in dataset["methods"])]
        parts.append(f"{title}\n\n" + "\n".join(rows))
    commit = (where["commit"] or "unknown")[:12] + ("+" if (where["commit"] or "").endswith("+") else "")
    hardware = ", ".join(where["gpus"]) or f"{where['cpu']}, {where['cores']} cores"
    parts.append(
        f"`{where['command']}`, {hardware}, {where['threads']} thread(s), torch {where['versions']['torch']}, "
        f"model {report['model']['name']} ({report['model']['fingerprint'][:12]}), commit {commit}"
    )
    return "\n\n".join(parts)


def _row(method: dict[str, Any]) -> str:
    metrics, total, search = method["metrics"], method["total_ms"], method["search_ms"]
    cells = [
        method["method"],
        *(f"{metrics[name]:.3f}" for name in ("nDCG@10", "RR@10", "R@10", "R@100")),
        f"{total['p50']:.1f} / {total['p95']:.1f}",
        f"{search['p50']:.1f} / {search['p95']:.1f}",
        _count(method["comparisons"]),
        _count(method["bytes_per_document"]),
    ]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


TABLES: dict[str, Callable[[Path], str]] = {"quality": quality}


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
