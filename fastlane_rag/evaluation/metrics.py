"""Ranking metrics, computed by ir-measures (trec_eval underneath)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastlane_rag.errors import MissingExtraError

METRICS = ("nDCG@10", "RR@10", "R@10", "R@100")


def score_run(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Compute metrics of rankings.

    Args:
        qrels: for each query id, the relevance by document id.
        run: for each query id, document ids, best first. A judged query without a ranking scores 0.

    Returns:
        For each of `METRICS`, the value by query id, over exactly the queries of `qrels`.

    Raises:
        MissingExtraError: ir-measures is not installed.
    """
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in METRICS}
    # ir-measures' trec_eval ignores the cut-off of "RR@10", so RR gets rankings cut at 10.
    for names, run_of_names in (
        (("nDCG@10", "R@10", "R@100"), run),
        (("RR@10",), {query_id: ids[:10] for query_id, ids in run.items()}),
    ):
        for judged in _judge(names, qrels, run_of_names):
            values[str(judged.measure)][judged.query_id] = judged.value
    return values


def mean_scores(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The means over queries of the values of `score_run`, by metric."""
    return {name: sum(by_query.values()) / len(by_query) for name, by_query in values.items()}


def _judge(
    names: Sequence[str], qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]
) -> Iterator[Any]:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("metrics need ir-measures: pip install 'fastlane-rag[eval]'") from error
    # Scores fall with the rank, so that trec_eval's order of ties never matters.
    scored = {
        query_id: {document_id: -float(rank) for rank, document_id in enumerate(ids)} for query_id, ids in run.items()
    }
    measures = [ir_measures.parse_measure(name) for name in names]
    judged: Iterator[Any] = ir_measures.pytrec_eval.iter_calc(measures, qrels, scored)
    return judged
