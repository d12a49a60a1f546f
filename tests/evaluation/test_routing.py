"""The routing report of a router that depends on the query, and of one that does not."""

import copy
import json
from pathlib import Path

import pytest
import torch

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.evaluation.routing import routing_report, selection_statistics

QUESTIONS = [
    "what does the walrus operator do?",
    "who may accept a proposal?",
    "how are type hints for dictionaries written?",
    "why was the global interpreter lock kept?",
    "when was Python 2 retired?",
]


def test_a_router_by_rarity_follows_the_query(model: FastLaneModel) -> None:
    statistics = selection_statistics(model.encode_routed(QUESTIONS), k=2)
    assert statistics["collapsed"] is None
    assert statistics["distinct_first_tokens"] > 0.5
    assert statistics["token_overlap"] < 0.2
    assert sum(statistics["positions"].values()) == pytest.approx(1.0)


def test_a_router_stuck_on_one_position_is_said_to_have_collapsed(model: FastLaneModel) -> None:
    queries = model.encode_routed(QUESTIONS)
    for query in queries:
        query.scores.copy_(-torch.arange(len(query.scores), dtype=torch.float32))
    statistics = selection_statistics(queries, k=2)
    assert statistics["top_position_share"] == 1.0
    assert "position 0 first in 100%" in str(statistics["collapsed"])
    assert statistics["position_overlap"] == pytest.approx(1.0)


def test_usefulness_agrees_with_a_router_that_knows_it(
    model: FastLaneModel, tmp_path: Path, passages: list[dict[str, str]]
) -> None:
    """Negated router scores negate the router's correlation, and change nothing else."""
    chosen = [p for p in passages if len(p["title"].split()) > 3][:150]
    (tmp_path / "qrels").mkdir()
    with (tmp_path / "corpus.jsonl").open("w") as corpus, (tmp_path / "queries.jsonl").open("w") as queries:
        for p in chosen:
            corpus.write(json.dumps({"_id": p["id"], "title": "", "text": p["text"]}) + "\n")
        for p in chosen[:30]:
            queries.write(json.dumps({"_id": "q" + p["id"], "text": p["title"]}) + "\n")
    rows = "\n".join(f"q{p['id']}\t{p['id']}\t1" for p in chosen[:30])
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}\n")
    dataset = load_dataset(tmp_path)
    with FastLaneIndex.create(model=model) as index:
        index.add([p["text"] for p in chosen], ids=[p["id"] for p in chosen])
        report = routing_report(index, dataset)
    alone = report["usefulness"]["alone"]
    assert set(alone) == {"router", "rarity", "position", "norm"}
    assert all(-1 <= value <= 1 for value in alone.values())
    turned = FastLaneModel(copy.deepcopy(model.encoder))
    turned.encoder.query_router.prior_weight.data.neg_()
    with torch.no_grad():
        turned.encoder.query_router.score.weight.neg_()
    with FastLaneIndex.create(model=turned) as index:
        index.add([p["text"] for p in chosen], ids=[p["id"] for p in chosen])
        assert routing_report(index, dataset)["usefulness"]["alone"]["router"] == pytest.approx(
            -alone["router"], abs=0.02
        )
