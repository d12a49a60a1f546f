"""Ranking metrics, computed by ir-measures (trec_eval underneath)."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from fastlane_rag.errors import MissingExtraError

METRICS = ("nDCG@10", "RR@10", "R@10", "R@100")


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Judge one ranking a query.

    Args:
        qrels: relevance by document id by query id.
        run: document ids, best first, by query id. A judged query that is absent scores 0.

    Returns:
        For each of `METRICS`, the value by query id, over exactly the queries of `qrels`.

    Raises:
        MissingExtraError: ir-measures is not installed.
    """
    ir_measures = _ir_measures()
    measures = [ir_measures.parse_measure(name) for name in METRICS]
    # Scores fall with the rank, so trec_eval's own order for ties never decides.
    scored = {
        query_id: {document_id: -float(rank) for rank, document_id in enumerate(ids)}
        for query_id, ids in run.items()
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in METRICS}
    for judged in _pytrec(ir_measures).iter_calc(measures, qrels, scored):
        values[str(judged.measure)][judged.query_id] = judged.value
    return values


def mean_scores(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over queries of what `score_run` returns, by metric."""
    return {name: sum(by_query.values()) / len(by_query) for name, by_query in values.items()}


def _ir_measures() -> ModuleType:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError("metrics need ir-measures: pip install 'fastlane-rag[eval]'") from error
    return ir_measures


def _pytrec(ir_measures: ModuleType) -> Any:
    """The trec_eval provider by name: the default one tries others first, by what happens to be installed."""
    return ir_measures.pytrec_eval
