"""Runs one method on one dataset: rankings, metrics, times."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastlane_rag.evaluation.dataset import Dataset
from fastlane_rag.evaluation.method import Method
from fastlane_rag.evaluation.metrics import mean_scores, score_run

DEPTH = 10
"""Documents to ask for when a query is timed and judged by its first ten, as users ask."""

DEEP = 100
"""Documents to ask for in a second call without timing, for recall@100."""

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds per query: the median and the 95th percentile."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Result:
    """A method's figures on a dataset.

    Attributes:
        method: its name.
        metrics: mean over the queries, by metric.
        search_ms: time from the encoded query to the ids.
        total_ms: time from the text to the ids.
        comparisons: mean dot products per query; None for a method without.
        bytes_per_document: bytes stored per document; None for a method that stores nothing.
        per_query: for each metric, the value by query id, for significance tests.
    """

    method: str
    metrics: dict[str, float]
    search_ms: Percentiles
    total_ms: Percentiles
    comparisons: float | None
    bytes_per_document: float | None
    per_query: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON, without the values of single queries."""
        fields = asdict(self)
        del fields["per_query"]
        return fields


def judge(
    method: Method, dataset: Dataset, queries: Iterable[tuple[str, str]] | None = None, *, deep: bool = True
) -> Result:
    """Run every query of the dataset in a call of its own, and judge the answers.

    Args:
        method: built over the dataset's corpus.
        dataset: queries and judgements.
        queries: pairs of id and text, the dataset's queries in a wrapper that shows progress; None for the plain ones.
        deep: ask each query once more for a hundred documents; False leaves recall@100 out.
    """
    for text in list(dataset.queries.values())[:_WARM_UP]:
        method.answer(text, DEPTH)  # opens files and fills caches; not timed
    answers, hundred = {}, {}
    for query_id, text in dataset.queries.items() if queries is None else queries:
        answers[query_id] = method.answer(text, DEPTH)
        if deep:
            hundred[query_id] = method.answer(text, DEEP).ids
    # A search for more documents gathers more candidates, so the first ten of a deep ranking may be better than those
    # of a user who asks for ten. Therefore each metric is computed from the ranking of its own depth.
    per_query = score_run(dataset.qrels, _others(dataset, {one: answer.ids for one, answer in answers.items()}))
    if deep:
        per_query["R@100"] = score_run(dataset.qrels, _others(dataset, hundred))["R@100"]
    else:
        del per_query["R@100"]
    timed = list(answers.values())
    compared = [answer.comparisons for answer in timed if answer.comparisons is not None]
    return Result(
        method=method.name,
        metrics=mean_scores(per_query),
        search_ms=_percentiles(answer.search_seconds for answer in timed),
        total_ms=_percentiles(answer.encode_seconds + answer.search_seconds for answer in timed),
        comparisons=sum(compared) / len(compared) if compared else None,
        bytes_per_document=method.bytes_per_document,
        per_query=per_query,
    )


def _others(dataset: Dataset, run: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rankings without the query itself, which some datasets have as a document of the same id (BEIR's rule)."""
    return {
        query_id: [one for one in ids if one != query_id or one in dataset.qrels[query_id]]
        for query_id, ids in run.items()
    }


def _percentiles(seconds: Iterable[float]) -> Percentiles:
    p50, p95 = np.percentile([1000 * one for one in seconds], [50, 95])
    return Percentiles(float(p50), float(p95))
