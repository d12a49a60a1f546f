"""`make reproduce`, every part of it, on a small set of real passages."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import reproduce
from reproduction import memory, robustness, routing, sweep
from reproduction.run import Results, Run

pytest.importorskip("matplotlib")
PARTS = ("quality", "paper", "sweep", "routing", "memory", "robustness")


@pytest.fixture(scope="module")
def data(passages: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty passages under the name of a dataset that the parts know; titles ask for their texts."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "arxiv_title"
    (folder / "qrels").mkdir(parents=True)
    chosen = sorted(passages, key=lambda p: (len(p["text"]), p["id"]))[100:140]
    corpus = "".join(json.dumps({"_id": p["id"], "text": p["text"]}) + "\n" for p in chosen)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    queries = "".join(json.dumps({"_id": f"q{i}", "text": p["title"] * 9}) + "\n" for i, p in enumerate(chosen))
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\t{p['id']}\t1\n" for i, p in enumerate(chosen)))
    return root


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results of all parts, measured with few settings."""
    out, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "BUDGETS", (8, None))
        patch.setattr(sweep, "BITS", (4,))
        patch.setattr(sweep, "ROUTE_KS", (1, 16, "all"))
        patch.setattr(robustness, "CUTS", (16, 512))
        patch.setattr(robustness, "TYPOS", (0.0, 0.4))
        patch.setattr(robustness, "LENGTHS", (3, 10))
        patch.setattr(routing, "KS", (1, 4))
        patch.setattr(memory, "MODES", {"default": {}})
        common = ["--data", str(data), "--out", str(out), "--cache", str(cache), "--limit", "6"]
        reproduce.main([*PARTS, *common, "--datasets", "arxiv_title"])
    return out


def steps(results: Path, part: str) -> dict[str, Any]:
    return {name: step["results"] for name, step in json.loads((results / f"{part}.json").read_text())["steps"].items()}


@pytest.mark.slow
def test_every_part_says_where_and_how_it_was_measured(results: Path) -> None:
    for part in PARTS:
        written = json.loads((results / f"{part}.json").read_text())
        assert (written["part"], written["limit"]) == (part, 6)
        assert written["model"]["fingerprint"]
        assert written["steps"]
        for step in written["steps"].values():
            assert step["environment"]["versions"]["torch"]
            assert step["environment"]["command"].startswith(f"benchmarks/reproduce.py {part}")
            assert step["seconds"] >= 0


@pytest.mark.slow
def test_the_papers_rows_are_those_of_quality(results: Path) -> None:
    judged = {one["method"]: one for one in steps(results, "quality")["arxiv_title"]["methods"]}
    rows = steps(results, "paper")["arxiv_title"]["rows"]
    assert {row["method"] for row in rows} >= {"dense", "full SumMaxSim", "fastlane k=1 gather, fp16"}
    for row in rows:
        assert row["MRR@10"] == judged[row["method"]]["metrics"]["RR@10"]
    third, full = judged["full SumMaxSim, third"], judged["full SumMaxSim"]
    assert third["comparisons"] < 0.4 * full["comparisons"]


@pytest.mark.slow
def test_a_smaller_budget_costs_fewer_bytes_and_k_fewer_comparisons(results: Path) -> None:
    by_budget = {one["budget"]: one for one in steps(results, "sweep").values()}
    assert by_budget[8]["tokens_per_document"] <= 8 < by_budget[None]["tokens_per_document"]
    assert by_budget[8]["bytes_per_document"] < by_budget[None]["bytes_per_document"]
    unrefined = {one["route_k"]: one for one in by_budget[None]["points"] if not one["refine"]}
    assert unrefined[1]["comparisons"] < unrefined[16]["comparisons"] <= unrefined["all"]["comparisons"]


@pytest.mark.slow
def test_routing_memory_and_robustness_have_their_figures(results: Path) -> None:
    (routed,) = steps(results, "routing").values()
    ways = {"router", "score", "rarity", "collection", "position", "norm", "random", "oracle"}
    assert set(routed["ablations"]["chosen_by"]) == ways
    assert len(routed["pictures"]["queries"]) == 6
    for one in steps(results, "memory").values():
        assert one["documents"] == 40
        assert one["index_bytes"] > 0
        assert one["mib_index_mapped"] > 0
    kinds = {(one["kind"], one["value"]) for one in steps(results, "robustness").values()}
    assert {("passages", 16), ("passages", 512), ("typos", 0.0), ("typos", 0.4), ("queries", 3)} <= kinds
    assert list(results.glob("*.svg")) or list(results.glob("*.png"))


def test_a_step_is_measured_once_and_again_for_another_limit(data: Path, tmp_path: Path) -> None:
    def results(limit: int) -> Results:
        return Run(data, tmp_path / "cache", tmp_path, limit).results("quality")

    measured: list[int] = []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return {"value": 1 / 3}

    assert results(5).step("one", measure) == {"value": 0.333333}
    assert results(5).step("one", measure) == {"value": 0.333333}
    assert len(measured) == 1, "what is there is not measured again"
    results(6).step("one", measure)
    assert len(measured) == 2, "figures of different limits do not stand in one file"
