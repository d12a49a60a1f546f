"""The recipe of the default model, end to end: tiny random transformers, the packaged passages, few steps."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import BertConfig, BertModel

from fastlane_rag import FastLaneModel
from fastlane_rag.cli import main
from fastlane_rag.model.default import unpack_model

RECIPE = Path(__file__).parents[2] / "examples" / "training" / "default.yaml"
# What makes a step small; all else is the recipe's own.
SMALL = {
    "sample": "--most 120",
    "before": "--steps 1",
    "projection": "--steps 2",
    "first": "--steps 2 --batch 4",
    "second": "--steps 2 --batch 4",
    "context": "--steps 2",
    "weights": "--steps 10",
}
SPLITS = {"train": slice(0, 60), "train_minus_dev": slice(0, 60), "dev": slice(60, 80), "test": slice(80, 100)}


def recipe() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return content


def write_lines(file: Path, records: list[dict[str, str]]) -> None:
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def inputs(tmp_path: Path, model: FastLaneModel, passages: list[dict[str, str]]) -> dict[str, Path]:
    """Every file that the recipe asks for: two random transformers, and headings that find their passages."""
    folders = {name: tmp_path / name for name in recipe()["inputs"]}
    for seed, name in enumerate(("base", "teacher")):
        model.encoder.tokenizer.save_pretrained(folders[name])
        torch.manual_seed(seed)
        shape = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
        BertModel(BertConfig(vocab_size=len(model.encoder.tokenizer), **shape)).save_pretrained(folders[name])
    chosen = [p for p in passages if len(p["title"].split()) > 2 and len(p["text"]) > 150][:120]
    made = {
        "corpus.jsonl.gz": [{"_id": p["id"], "title": p["title"], "text": p["text"]} for p in chosen],
        "queries.jsonl.gz": [{"_id": f"q{p['id']}", "text": p["title"]} for p in chosen],
        "train_pairs.jsonl.gz": [{"query": p["title"], "pos": p["text"]} for p in chosen],
    }
    for wanted in recipe()["inputs"]["data"]["files"]:
        file = folders["data"] / wanted
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.name in made:
            write_lines(file, made[file.name])
        else:
            rows = [f"q{p['id']}\t{p['id']}\t1" for p in chosen[SPLITS[file.stem]]]
            file.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folders


def test_the_steps_are_in_the_docs() -> None:
    """docs/model.md names every step of the recipe with its script."""
    listed = (RECIPE.parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    for name, command in recipe()["steps"].items():
        assert f"| `{name}` | `{command.split()[0]}` |" in listed


@pytest.mark.slow
def test_the_recipe_makes_a_model(tmp_path: Path, inputs: dict[str, Path]) -> None:
    """All steps in one command; the model has what each of them gives it, and the next command runs none."""
    content = recipe() | {"output": str(tmp_path / "out")}
    for name, folder in inputs.items():
        content["inputs"][name]["path"] = str(folder)
    for name, command in content["steps"].items():
        content["steps"][name] = f"'{RECIPE.parent}'/{command} {SMALL.get(name, '')}"
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    result = CliRunner().invoke(main, ["train", str(config)])
    assert result.exit_code == 0, result.stderr

    unpack_model(tmp_path / "out" / "weights" / "model", tmp_path / "model")
    model = FastLaneModel.from_pretrained(tmp_path / "model", device="cpu")
    router = model.encoder.query_router
    assert model.dim == 192
    assert router.context is not None
    assert router.token_weights is not None
    (query,) = model.encode_routed(["how are type hints written?"])
    assert query.views is not None
    assert len(query.weights) == len(query.embeddings)
    assembled = FastLaneModel.from_pretrained(tmp_path / "out" / "assembled", device="cpu", dtype="float32")
    cosine = torch.nn.functional.cosine_similarity(
        query.embeddings.float(), assembled.encode_queries(["how are type hints written?"])[0].float()
    )
    assert cosine.min() > 0.98

    listed = CliRunner().invoke(main, ["train", str(config), "--dry-run"]).stdout.splitlines()
    assert len(listed) == len(content["steps"])
    assert all(line.endswith(" done") for line in listed)
