"""The value of each term of the loss and of each width of the projection: short runs with one change each.

python benchmarks/training.py BASE --data ../shared/data --work ~/.cache/fastlane-training

BASE is a directory with sentence-transformers/all-MiniLM-L6-v2, as for examples/training/before.py. Each run
starts from the same fitted model and sees the same pairs in the same order. It differs in one thing from `recipe`, a
short version of examples/training/before.yaml: one term of the loss is left out, or the width is another. Runs are far
shorter than that of the bundled model and cut passages earlier, so they show the effect of a term, not the quality that
a model can reach. They are judged on some questions of each dev split, over a few hundred passages. A run with results
is skipped (--again measures it anew).
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "training" / "before.yaml"
DIMS = (48, 64, 96, 128)
DIM = 128
QUERIES, PASSAGES, PAIRS = 100, 500, 600
"""Queries and passages of each dev set, and pairs of each training set."""
KS = (1, 4)
SHARE = 1 / 3
"""Share of each document's tokens to keep, for the figure of the document router."""

if TYPE_CHECKING:
    from fastlane_rag import FastLaneModel
    from fastlane_rag.training import TrainConfig
    from fastlane_rag.training.data import DevSet


def settings(asked: argparse.Namespace) -> "TrainConfig":
    """The shortened recipe, with pairs that are mined once."""
    import yaml

    from fastlane_rag.training import TrainConfig

    recipe = yaml.safe_load(RECIPE.read_text())
    for sources in (recipe["data"]["train"], recipe["data"]["dev"]):
        for source in sources.values():
            source["path"] = str(asked.data / Path(source["path"]).relative_to("data"))
    recipe |= {
        "output": str(asked.work),
        "threads": asked.threads,
        "max_steps": asked.steps,
        "batch_size": asked.batch,
        "document_length": asked.length,
        "saved_document_length": asked.length,
        "patience": None,
    }
    return TrainConfig.model_validate(recipe)


def with_pairs(config: "TrainConfig", folder: Path) -> "TrainConfig":
    """The config with files of pairs that have their hard negatives."""
    from fastlane_rag.training.config import Source
    from fastlane_rag.training.data import load_pairs

    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for name, source in config.data.train.items():
        file = folder / f"{name}.jsonl"
        if not file.is_file():
            few = source.model_copy(update={"limit": min(PAIRS, source.limit or PAIRS)})
            pairs = load_pairs(name, few, config.data, config.seed)
            lines = [json.dumps({"query": p.query, "pos": p.positive, "neg": p.negatives}) for p in pairs]
            file.write_text("\n".join(lines) + "\n")
        sources[name] = Source(path=file)
    return config.model_copy(update={"data": config.data.model_copy(update={"train": sources, "dev": {}})})


def fitted(asked: argparse.Namespace, dim: int) -> "FastLaneModel":
    """The untrained model of a width, created once."""
    import before

    from fastlane_rag import FastLaneModel

    folder = asked.work / f"start-{dim}"
    if not folder.is_dir():
        before.fit(asked.base, asked.data, folder, dim)
    model = FastLaneModel.from_pretrained(folder, dtype="float32", device="cpu")
    model.encoder.transformer.document_length = asked.length
    return model


def variants(config: "TrainConfig") -> Iterator[tuple[str, int, "TrainConfig"]]:
    """Name, width and config of each run: the recipe, then without each term, then the other widths."""
    yield "recipe", DIM, config
    for term, weight in config.loss:
        if weight and term in config.loss.model_fields_set:
            yield f"without {term}", DIM, config.model_copy(update={"loss": config.loss.model_copy(update={term: 0.0})})
    for dim in DIMS:
        if dim != DIM:
            yield f"{dim} dimensions", dim, config


def judge(model: "FastLaneModel", sets: list["DevSet"]) -> dict[str, Any]:
    """nDCG@10 on each dev set: in full, of k routed tokens alone, and in full over a share of documents' tokens."""
    from fastlane_rag.training.monitor import dev_scores

    router = model.encoder.document_router
    found = {}
    for dev in sets:
        found[dev.name] = dev_scores(model, dev, KS)
        before, router.budget = router.budget, SHARE
        found[dev.name]["full, third"] = dev_scores(model, dev, ())["full"]
        router.budget = before
    averages = {name: sum(one[name] for one in found.values()) / len(found) for name in next(iter(found.values()))}
    return {"dim": model.dim, "sets": found, "average": averages}


def main(arguments: list[str] | None = None) -> None:
    """Fit, train and judge the chosen runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of datasets")
    parser.add_argument("--work", type=Path, required=True, help="where models and pairs go")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "training.json")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="queries a step")
    parser.add_argument("--length", type=int, default=96, help="tokens that passages are cut at")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure runs that are in the results already")
    asked = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(asked.threads)
    sys.path.insert(0, str(RECIPE.parent))  # before

    import torch
    from reproduction.run import FORMAT, SEED, VERSION, Results

    from fastlane_rag.training.data import load_dev
    from fastlane_rag.training.trainer import train_from

    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    config = settings(asked)
    sets = [
        load_dev(name, source.model_copy(update={"limit": QUERIES}), PASSAGES, SEED)
        for name, source in config.data.dev.items()
    ]
    config = with_pairs(config, asked.work / "pairs")
    shape = {"optimisation_steps": asked.steps, "batch": asked.batch, "length": asked.length, "pairs": PAIRS}
    header = {"format": FORMAT, "version": VERSION, "part": "training", "seed": SEED, **shape}
    header |= {"dev": {"queries": QUERIES, "passages": PASSAGES, "sets": [dev.name for dev in sets]}}
    command = f"benchmarks/training.py BASE --steps {asked.steps} --batch {asked.batch} --length {asked.length}"
    results = Results(asked.json, header, command, again=asked.again)
    for dim in DIMS:
        results.step(f"untrained, {dim} dimensions", lambda dim=dim: judge(fitted(asked, dim), sets))  # type: ignore[misc]
    for name, dim, changed in variants(config):
        output = asked.work / name.replace(" ", "-")

        def run(dim: int = dim, changed: "TrainConfig" = changed, output: Path = output) -> dict[str, Any]:
            start = fitted(asked, dim)
            return judge(train_from(start, changed.model_copy(update={"output": output}), resume=True), sets)

        results.step(name, run)


if __name__ == "__main__":
    main()
