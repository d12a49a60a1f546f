"""The paper's Table 1 on our data: single vector, FastLane and full SumMaxSim, with the published figures."""

from typing import Any

from reproduction import quality
from reproduction.run import Run

DATASET = "arxiv_title"
PUBLISHED = {
    "dense": {"MRR@10": 0.344},
    quality.PAPER: {"MRR@10": 0.372, "seconds": 14.48},
    quality.FULL: {"MRR@10": 0.384, "seconds": 112.04},
}
"""arXiv 2601.06389: MRR@10 on MS MARCO dev, and seconds over a corpus of 100,000 passages on an NVIDIA T4."""
ROWS = ("dense", "dense hnsw", quality.PAPER, "fastlane k=1 gather", "fastlane k=1", "fastlane k=16", quality.FULL)


def run(run: Run, datasets: tuple[str, ...] = (DATASET,)) -> None:
    """Take the rows from the part quality, which measures them when they are missing."""
    for name in datasets:
        judged = quality.step(run, name)
        where = run.results("quality").steps[name]["environment"]
        run.results("paper").step(name, lambda j=judged, w=where: measure(j) | {"measured_in": w})  # type: ignore[misc]


def measure(judged: dict[str, Any]) -> dict[str, Any]:
    """The rows of the table, taken from the part quality."""
    methods = {method["method"]: method for method in judged["methods"]}
    rows = []
    for name in ROWS:
        method = methods[name]
        rows.append(
            {
                "method": name,
                "MRR@10": method["metrics"]["RR@10"],
                "nDCG@10": method["metrics"]["nDCG@10"],
                "p50_ms": method["search_ms"]["p50"],
                "p95_ms": method["search_ms"]["p95"],
                "comparisons": method["comparisons"],
                "bytes_per_document": method["bytes_per_document"],
                "published": PUBLISHED.get(name),
            }
        )
    return {
        "source": f"quality.json, {judged['name']}",
        "documents": judged["documents"],
        "queries": judged["queries"],
        "split": judged["split"],
        "rows": rows,
    }
