"""Metrics against values worked out by hand."""

import math

import pytest

from fastlane_rag.evaluation.metrics import METRICS, mean_scores, score_run

QRELS = {"q1": {"d1": 1, "d2": 2}, "q2": {"d9": 1}}


def test_values_by_hand() -> None:
    """q1 finds d2 (gain 2) at rank 1 and d1 (gain 1) at rank 3; q2 finds its document at rank 11."""
    run = {"q1": ["d2", "x", "d1"], "q2": [f"y{i}" for i in range(10)] + ["d9"]}
    values = score_run(QRELS, run)
    ideal = 2 + 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx({"q1": (2 + 1 / math.log2(4)) / ideal, "q2": 0})
    assert values["RR@10"] == {"q1": 1, "q2": 0}, "rank 11 is beyond the cut-off"
    assert values["R@10"] == pytest.approx({"q1": 1, "q2": 0})
    assert values["R@100"] == pytest.approx({"q1": 1, "q2": 1})
    assert mean_scores(values)["RR@10"] == pytest.approx(0.5)


def test_a_query_without_answer_counts_as_zero() -> None:
    values = score_run(QRELS, {"q1": ["d2", "d1"], "q2": []})
    assert mean_scores(values) == pytest.approx(dict.fromkeys(METRICS, 0.5))
    assert mean_scores(score_run(QRELS, {"q1": ["d2", "d1"]})) == pytest.approx(dict.fromkeys(METRICS, 0.5))


def test_the_order_given_decides_not_the_ids() -> None:
    """trec_eval breaks ties by document id; a ranking has none."""
    for first, second in (("d1", "x"), ("x", "d1")):
        values = score_run({"q": {"d1": 1}}, {"q": [first, second]})
        assert values["RR@10"]["q"] == (1 if first == "d1" else 0.5)
