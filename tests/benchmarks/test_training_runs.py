"""The short training runs: their configs and their table."""

import argparse
import json
from pathlib import Path

import pytest
import tables
import training
import yaml

from fastlane_rag.training.config import LossWeights, Source


@pytest.fixture
def asked(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(data=tmp_path / "data", work=tmp_path, threads=1, steps=7, batch=4, length=32)


def test_each_term_of_the_recipe_is_left_out_once(asked: argparse.Namespace) -> None:
    """Each run changes one term of the recipe, or only the width."""
    recipe = yaml.safe_load(training.RECIPE.read_text())["loss"]
    config = training.settings(asked)
    runs = {name: (dim, changed) for name, dim, changed in training.variants(config)}
    assert runs.pop("recipe") == (training.DIM, config)
    for term in recipe:
        dim, changed = runs.pop(f"without {term}")
        assert dim == training.DIM
        assert getattr(changed.loss, term) == 0
        assert changed.loss.model_copy(update={term: recipe[term]}) == config.loss
    assert {dim for dim, changed in runs.values() if changed == config} == set(training.DIMS) - {training.DIM}
    assert config.max_steps == 7
    assert set(recipe) <= set(LossWeights.model_fields)


def test_pairs_are_mined_once_and_bring_their_negatives(asked: argparse.Namespace) -> None:
    """A second run reads what the first wrote."""
    folder = asked.data / "few"
    (folder / "qrels").mkdir(parents=True)
    texts = ["a list is sorted by sort", "a tuple is sorted by sorted", "a set has no order"]
    lines = [json.dumps({"_id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "how is a list sorted"}))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    config = training.settings(asked)
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": {"few": Source(path=folder)}})})
    first = training.with_pairs(config, asked.work / "pairs")
    file = first.data.train["few"].path
    pair = json.loads(file.read_text())
    assert pair["pos"] == texts[0]
    assert pair["neg"] == [texts[1]] or pair["neg"] == [texts[2]]
    written = file.stat().st_mtime_ns
    assert training.with_pairs(config, asked.work / "pairs") == first
    assert file.stat().st_mtime_ns == written


def test_the_table_tells_what_a_change_makes(tmp_path: Path) -> None:
    """Differences from the recipe in points, of runs that are comparable with it."""
    where = {
        "cpu": "C",
        "gpus": [],
        "cores": 1,
        "threads": 1,
        "versions": {"torch": "2"},
        "commit": "c",
        "command": "x",
    }
    scores = {"untrained, 64 dimensions": 0.7, "recipe": 0.8, "without full": 0.75, "64 dimensions": 0.81}
    steps = {
        name: {"environment": where, "results": {"dim": 64, "average": {"full": value, "k1": value}}}
        for name, value in scores.items()
    }
    header = {"dev": {"sets": ["a"], "queries": 1, "passages": 2}, "length": 3, "optimisation_steps": 4, "batch": 5}
    (tmp_path / "training.json").write_text(json.dumps({**header, "seed": 6, "steps": steps}))
    lines = tables.training(tmp_path).splitlines()
    assert "| untrained, 64 dimensions | 64 | 0.700 | 0.700 |" in lines
    assert "| without full | 64 | 0.750 (-5.0) | 0.750 (-5.0) |" in lines
    assert "| 64 dimensions | 64 | 0.810 (+1.0) | 0.810 (+1.0) |" in lines
