"""The default search on idle cores, and beside as many busy processes as there are cores.

python benchmarks/busy.py INDEX --threads 2 --json benchmarks/results/busy.json

Queries are the beginnings of the index's own documents. They are encoded before, so that only the search is timed,
without torch. Idle and busy rounds alternate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUERIES, WORDS, K = 40, 12, 10
SPIN = "while True: pass"


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run this many processes that keep a core busy."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(index: Any, queries: list[str], encoded: dict[str, Any]) -> list[float]:
    """Milliseconds of each search with an encoded query."""
    model = type(index.model)
    original = model.encode_routed
    model.encode_routed = lambda self, texts, **_: encoded[texts[0]]
    times = []
    try:
        for query in queries:
            start = time.perf_counter()
            index.search(query, k=K)
            times.append((time.perf_counter() - start) * 1e3)
    finally:
        model.encode_routed = original
    return times


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch

    from fastlane_rag import FastLaneIndex
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with FastLaneIndex.open(arguments.index, read_only=True) as index:
        texts = [document.text for document in index.get(index.ids()[:QUERIES])]
        queries = [" ".join(text.split()[:WORDS]) for text in texts]
        encoded = {query: index.model.encode_routed([query]) for query in queries}
        measure(index, queries, encoded)
        found: dict[str, list[float]] = {"quiet": [], "busy": []}
        for _ in range(arguments.turns):
            found["quiet"] += measure(index, queries, encoded)
            with busy(cores):
                found["busy"] += measure(index, queries, encoded)
    report: dict[str, Any] = {"environment": environment().as_dict(), "other_processes": cores}
    for name, times in found.items():
        times.sort()
        summary = {"mean_ms": statistics.mean(times), "median_ms": times[len(times) // 2]}
        report[name] = {**summary, "p95_ms": times[int(len(times) * 0.95)]}
        print(name, " ".join(f"{key} {value:.2f}" for key, value in report[name].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
