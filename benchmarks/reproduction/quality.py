"""Every method on every dataset: the table of the README, of the model card and of the acceptance figures."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from reproduction.run import Run, progress

if TYPE_CHECKING:
    from fastlane_rag.evaluation.cache import CorpusCache
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.evaluation.method import Method

DATASETS = (
    "scifact",
    "squad_dev",
    "nq_gold_mix",
    "medquad",
    "fairytaleqa",
    "cranfield",
    "arxiv_title",
)
ROUTE_KS = (1, 2, 4, 16)
THIRD = 1 / 3
FULL = "full SumMaxSim"
PAPER = "fastlane k=1 gather, fp16"
"""One routed token compared with all tokens of all documents, exactly, as in the paper."""


def run(run: Run, datasets: tuple[str, ...] = DATASETS) -> None:
    """Measure the datasets that have no results yet."""
    for name in datasets:
        step(run, name)


def step(run: Run, name: str) -> dict[str, Any]:
    """All methods on one dataset."""
    return run.results("quality").step(name, lambda: measure(run, name))


def measure(run: Run, name: str) -> dict[str, Any]:
    """Judge the methods, one after the other."""
    from fastlane_rag.evaluation.diagnosis import diagnose
    from fastlane_rag.evaluation.runner import judge
    from fastlane_rag.evaluation.suite import of_dataset

    dataset = run.dataset(name)
    results = []
    with ExitStack() as stack:
        for method in methods(dataset, run.corpus(dataset), stack):
            results.append(judge(method, dataset, progress(dataset.queries.items(), method.name)))  # type: ignore[arg-type]
            print(f"  {method.name:32s} nDCG@10 {results[-1].metrics['nDCG@10']:.4f}", flush=True)
    with run.corpus(dataset).coded("auto") as index:
        findings = list(diagnose(index, list(dataset.queries.values())))
    report = of_dataset(dataset, results, findings)
    # Of the hundred pairs keep those of interest: against full SumMaxSim, and against the single vector.
    pairs = report["significance"]["pairs"]
    report["significance"]["pairs"] = [pair for pair in pairs if {FULL, "dense"} & set(pair["methods"])]
    return report


def methods(dataset: "Dataset", corpus: "CorpusCache", stack: ExitStack) -> Iterator["Method"]:
    """The methods of `fastlane eval`, FastLane as in the paper, and both with a third of the document tokens."""
    from fastlane_rag.evaluation.method import METHODS
    from fastlane_rag.evaluation.methods import FastLane, Full
    from fastlane_rag.evaluation.suite import build

    yield from build(dataset, corpus, METHODS, ROUTE_KS, "auto", stack)
    yield FastLane(stack.enter_context(corpus.index()), 1, refine=False, note="fp16")
    yield Full(stack.enter_context(corpus.index(THIRD)), note="third")
    third = stack.enter_context(corpus.coded("auto", THIRD))
    for route_k in (4, 16):
        yield FastLane(third, route_k, note="third")
