"""Runs several methods on one dataset, and reports several datasets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import DataError
from fastlane_rag.evaluation.baselines import Bm25, Dense, Hnsw
from fastlane_rag.evaluation.cache import CorpusCache
from fastlane_rag.evaluation.dataset import Dataset
from fastlane_rag.evaluation.diagnosis import diagnose
from fastlane_rag.evaluation.environment import Environment
from fastlane_rag.evaluation.method import Method
from fastlane_rag.evaluation.methods import FastLane, Full, Hybrid, Weighted
from fastlane_rag.evaluation.runner import Result, judge
from fastlane_rag.evaluation.significance import DRAWS, randomization_test
from fastlane_rag.types import Finding

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.types import RouteK

_METRIC = "nDCG@10"
Track = Callable[[Iterable[Any], str], Iterable[Any]]
"""Passes items on and shows progress; the text says what is done with them."""


def compare(
    dataset: Dataset,
    model: "FastLaneModel",
    *,
    methods: Sequence[str],
    route_ks: Sequence["RouteK"],
    codec: str,
    cache: Path,
    track: Track,
) -> Iterator[Result]:
    """Judge each method on the dataset, in the order of `METHODS`. Yields each result at once.

    Args:
        dataset: queries, judgements and corpus.
        model: encodes both.
        methods: some of `METHODS`.
        route_ks: for "fastlane" and "gather".
        codec: of their index, as in `FastLaneIndex.create`; "full" and "weighted" use half precision.
        cache: folder of encoded corpora.
        track: shows progress.

    Raises:
        DataError: the corpus holds none of the judged documents.
    """
    there = {passage.id for passage in dataset.passages()}
    if not any(document in there for judged in dataset.qrels.values() for document in judged):
        raise DataError(f"{dataset.corpus_path} holds none of the documents that the split {dataset.split!r} judges")
    with ExitStack() as stack:
        for method in build(dataset, CorpusCache(cache, dataset, model, track), methods, route_ks, codec, stack):
            yield judge(method, dataset, track(dataset.queries.items(), f"{dataset.name}: {method.name}"))


def diagnosis(
    dataset: Dataset, model: "FastLaneModel", *, methods: Sequence[str], codec: str, cache: Path, track: Track
) -> list[Finding]:
    """The findings of `fastlane doctor --index` for the judged index and the dataset's queries.

    Empty if no method has an index in the codec.
    """
    if not {"fastlane", "gather", "hybrid"} & set(methods):
        return []
    with CorpusCache(cache, dataset, model, track).coded(codec) as index:
        return list(diagnose(index, list(dataset.queries.values())))


def build(
    dataset: Dataset,
    cache: CorpusCache,
    methods: Sequence[str],
    route_ks: Sequence["RouteK"],
    codec: str,
    stack: ExitStack,
) -> Iterator[Method]:
    """Yield each method; its index stays open until `stack` closes.

    Encodes nothing for methods that were not asked for.
    """
    if {"full", "weighted", "fastlane", "gather", "hybrid"} & set(methods):
        cache.index().close()  # encoding the index also gives the pooled vectors
    if "dense" in methods:
        yield Dense(cache.model, *cache.dense())
    if "hnsw" in methods:
        yield Hnsw(cache.model, *cache.dense())
    if "bm25" in methods:
        passages = list(dataset.passages())
        yield Bm25([passage.id for passage in passages], [passage.content for passage in passages])
        del passages
    if "full" in methods:
        yield Full(stack.enter_context(cache.index()))
    if "weighted" in methods:
        yield Weighted(stack.enter_context(cache.index()))
    if {"fastlane", "gather", "hybrid"} & set(methods):
        index = stack.enter_context(cache.coded(codec))
        for kind in ("fastlane", "gather"):
            if kind in methods:
                yield from (FastLane(index, k, refine=kind == "fastlane") for k in route_ks)
        if "hybrid" in methods:
            yield Hybrid(index)


def report(
    environment: Environment,
    model: "FastLaneModel",
    results: Sequence[tuple[Dataset, Sequence[Result], Sequence[Finding]]],
) -> dict[str, Any]:
    """The report that `fastlane eval --json` writes."""
    return {
        "format": "fastlane-eval",
        "version": 1,
        "environment": environment.as_dict(),
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "datasets": [of_dataset(dataset, judged, findings) for dataset, judged, findings in results],
    }


def of_dataset(dataset: Dataset, results: Sequence[Result], findings: Sequence[Finding]) -> dict[str, Any]:
    """The part of the report about one dataset."""
    return {
        "name": dataset.name,
        "split": dataset.split,
        "corpus": dataset.corpus_hash(),
        "documents": sum(1 for _ in dataset.passages()),
        "queries": len(dataset.queries),
        "methods": [result.as_dict() for result in results],
        "significance": _significance(results),
        "diagnosis": [finding.as_dict() for finding in findings],
    }


def _significance(results: Sequence[Result]) -> dict[str, Any]:
    """A significance test of every pair of methods, by the main metric."""
    return {
        "metric": _METRIC,
        "test": f"paired randomization, two-sided, {DRAWS} draws",
        "pairs": [
            {
                "methods": [a.method, b.method],
                "difference": a.metrics[_METRIC] - b.metrics[_METRIC],
                "p": randomization_test(a.per_query[_METRIC], b.per_query[_METRIC]),
            }
            for a, b in combinations(results, 2)
        ],
    }
