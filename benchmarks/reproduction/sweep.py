"""Quality, latency, bytes and comparisons by routed query tokens, kept document tokens, and bits per dimension."""

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from reproduction import plots
from reproduction.run import Run, progress

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.model import RoutedQuery

DATASETS = ("scifact",)
ROUTE_KS = (1, 2, 4, 8, 16, 32, "all")
BUDGETS = (8, 16, 32, 64, None)
BITS = (1, 2, 4, 8, 16)
_K = 10
_REPEATS = 3


def run(run: Run, datasets: tuple[str, ...] = DATASETS) -> None:
    """Measure each index, then draw."""
    results = run.results("sweep")
    for name in datasets:
        dataset = run.dataset(name)
        routed: dict[str, RoutedQuery] = {}  # encoded when the first index that is not measured yet asks
        for budget in BUDGETS:
            for bits in BITS:
                label = f"{name}, {'all' if budget is None else budget} tokens, {bits} bits"
                results.step(label, partial(index_curve, run, dataset, routed, budget, bits))
        plots.sweep(results.steps, name, run.out)


def index_curve(
    run: Run, dataset: "Dataset", queries: dict[str, "RoutedQuery"], budget: int | None, bits: int
) -> dict[str, Any]:
    """The size of one index, and its curve over k, with and without refinement.

    Every k is measured at 4 bits and in half precision; other bits at the default of `FastLaneIndex.search`.
    """
    from fastlane_rag.model import RoutedQuery
    from fastlane_rag.types import DEFAULT_ROUTE_K

    if not queries:
        encoded = run.model.encode_routed(list(dataset.queries.values()))
        # Views and weights are part of encoding: made here, and not for the first point that asks for them.
        ready = [RoutedQuery(q.embeddings, q.scores, q.tokens, q.views, q.weights) for q in encoded]
        queries.update(zip(dataset.queries, ready, strict=True))
    codec = "fp16" if bits == 16 else f"residual{bits}"
    ks = ROUTE_KS if bits in (4, 16) else (DEFAULT_ROUTE_K,)
    with run.corpus(dataset).coded(codec, budget) as index:
        stats = index.stats()
        points = []
        for route_k in ks:
            for refine in (True, False):
                if route_k == "all" and refine:  # nothing is left to refine
                    continue
                points.append(point(index, dataset, queries, route_k, refine))
        return {
            "dataset": dataset.name,
            "queries": len(queries),
            "documents": stats.documents,
            "budget": budget,
            "bits": bits,
            "tokens_per_document": stats.tokens / stats.documents,
            "bytes_per_document": stats.bytes_per_document,
            "points": points,
        }


def point(
    index: "FastLaneIndex", dataset: "Dataset", queries: dict[str, "RoutedQuery"], route_k: Any, refine: bool
) -> dict[str, Any]:
    """One point of a curve: encoded queries, one per call; of each query the fastest repeat counts."""
    from fastlane_rag.evaluation.metrics import mean_scores, score_run

    run, seconds, comparisons, lanes = {}, [], [], set()
    for name, query in progress(queries.items(), f"k={route_k}"):
        best = float("inf")
        for _ in range(_REPEATS):
            start = time.perf_counter()
            (found,) = index.search_batch_detailed([query], _K, route_k=route_k, refine=refine)
            best = min(best, time.perf_counter() - start)
        run[name] = [hit.id for hit in found.hits]
        seconds.append(best)
        comparisons.append(found.comparisons)
        lanes.add(found.lane)
    ordered = sorted(seconds)
    return {
        "route_k": route_k,
        "refine": refine,
        "nDCG@10": mean_scores(score_run(dataset.qrels, run))["nDCG@10"],
        "p50_ms": statistics.median(ordered) * 1e3,
        "p95_ms": ordered[int(0.95 * len(ordered))] * 1e3,
        "comparisons": statistics.mean(comparisons),
        "lane": "/".join(sorted(lanes)),
    }
