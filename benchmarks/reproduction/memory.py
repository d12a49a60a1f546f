"""Memory of searching a mapped index: resident bytes of its files, and other memory of the process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reproduction import serve
from reproduction.run import Run

DATASETS = ("arxiv_title",)
QUERIES = 500
MODES = {
    "default": {},
    "fastlane k=1": {"route_k": 1},
    "exhaustive k=1": {"route_k": 1, "lane": "exhaustive", "refine": False},
}


def run(run: Run, datasets: tuple[str, ...] = DATASETS) -> None:
    """Search in a process of its own for each index and mode."""
    results = run.results("memory")
    for name in datasets:
        for codec in ("residual4", "fp16"):
            for mode in MODES:
                results.step(
                    f"{name}, {codec}, {mode}",
                    lambda name=name, codec=codec, mode=mode: measure(run, name, codec, mode),  # type: ignore[misc]
                )


def measure(run: Run, name: str, codec: str, mode: str) -> dict[str, Any]:
    """Run a process that opens the index with a cold cache, answers queries, and reports its memory."""
    dataset = run.dataset(name, limit=QUERIES)
    with run.corpus(dataset).coded(codec) as index:
        stats, path = index.stats(), index.path
    queries = run.cache / f"queries-{name}-{run.model.fingerprint[:16]}-{len(dataset.queries)}.npz"
    serve.write_queries(queries, run.model.encode_routed(list(dataset.queries.values())))
    command = [sys.executable, str(Path(serve.__file__)), str(path), str(queries), json.dumps(MODES[mode])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return {
        "dataset": name,
        "codec": codec,
        "mode": mode,
        "documents": stats.documents,
        "tokens": stats.tokens,
        "queries": len(dataset.queries),
        "index_bytes": stats.bytes,
        **json.loads(done.stdout.splitlines()[-1]),
    }
