"""The process that `reproduction.memory` watches: opens an index, answers encoded queries, reports its own memory.

python benchmarks/reproduction/serve.py INDEX QUERIES.npz '{"route_k": 1}'
"""

import gc
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastlane_rag.model import RoutedQuery

_K = 10


def write_queries(path: Path, queries: "Sequence[RoutedQuery]") -> None:
    """Write encoded queries to a numpy archive."""
    views = None
    if all(query.views is not None for query in queries):
        views = np.concatenate([query.views.cpu().numpy() for query in queries if query.views is not None])
    with path.open("wb") as file:
        np.savez(
            file,
            lengths=np.array([len(query.scores) for query in queries]),
            embeddings=np.concatenate([query.embeddings.cpu().numpy() for query in queries]),
            scores=np.concatenate([query.scores.cpu().numpy() for query in queries]),
            **({} if views is None else {"context": views}),
        )


def read_queries(path: Path) -> "list[RoutedQuery]":
    """Read what `write_queries` wrote, without token strings."""
    import torch

    from fastlane_rag.model import RoutedQuery

    with np.load(path, allow_pickle=False) as archive:
        ends = np.cumsum(archive["lengths"])[:-1]
        names = [name for name in ("embeddings", "scores", "context") if name in archive]
        parts = zip(*(np.split(archive[name], ends) for name in names), strict=True)
        tensors = (dict(zip(names, map(torch.from_numpy, part), strict=True)) for part in parts)
        return [RoutedQuery(**each, tokens=[""] * len(each["scores"])) for each in tensors]


def resident(index: Path) -> dict[str, float]:
    """MiB of this process: resident in all, not backed by a file, and resident of the index's files.

    Raises:
        OSError: the system has no /proc/self/smaps (Linux has).
    """
    sizes = {"total": 0, "private": 0, "index_resident": 0, "index_mapped": 0}
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if header := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)", line):
            ours = header[1].startswith(str(index))
        elif line.startswith(("Rss:", "Anonymous:", "Size:")):
            name, kilobytes = line.split()[:2]
            if name == "Rss:":
                sizes["total"] += int(kilobytes)
                sizes["index_resident"] += int(kilobytes) if ours else 0
            elif name == "Anonymous:":
                sizes["private"] += int(kilobytes)
            elif ours:
                sizes["index_mapped"] += int(kilobytes)
    return {name: kilobytes / 1024 for name, kilobytes in sizes.items()}


def forget(index: Path) -> None:
    """Ask the system to drop the index's pages from its cache, so that reads go to disk."""
    for path in index.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def serve(index_path: Path, queries_path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Search for every query in a call of its own, first with a cold cache, then once more."""
    from fastlane_rag import FastLaneIndex

    index_path = index_path.resolve()  # as the system names what is mapped
    queries = read_queries(queries_path)
    with FastLaneIndex.open(index_path, read_only=True) as warm:  # imports and compiled kernels before the clock
        warm.search_batch_detailed(queries[:1], _K, **options)
    del warm
    gc.collect()
    forget(index_path)
    before = resident(index_path)
    start = time.perf_counter()
    index = FastLaneIndex.open(index_path, read_only=True)
    opening = time.perf_counter() - start
    opened = resident(index_path)
    passes = []
    for _ in range(2):
        seconds = []
        for query in queries:
            start = time.perf_counter()
            index.search_batch_detailed([query], _K, **options)
            seconds.append(time.perf_counter() - start)
        passes.append(sorted(seconds))
    after = resident(index_path)
    index.close()
    cold, again = passes
    return {
        "open_ms": opening * 1e3,
        "cold_p50_ms": statistics.median(cold) * 1e3,
        "cold_p95_ms": cold[int(0.95 * len(cold))] * 1e3,
        "p50_ms": statistics.median(again) * 1e3,
        "p95_ms": again[int(0.95 * len(again))] * 1e3,
        "mib_before": before["total"],
        "mib_after": after["total"],
        "mib_private_before": before["private"],
        "mib_private_after": after["private"],
        "mib_index_mapped": after["index_mapped"],
        "mib_index_resident_when_opened": opened["index_resident"],
        "mib_index_resident": after["index_resident"],
    }


if __name__ == "__main__":
    path, queries, options = sys.argv[1:]
    print(json.dumps(serve(Path(path), Path(queries), json.loads(options))))
