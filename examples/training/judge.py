"""nDCG@10 of a model's full SumMaxSim, and of few routed tokens, where it was trained and where it was not.

    python examples/training/judge.py MODEL DATA [--sets cacm squad ...] [--k 1 4 auto] [--budget 0.34]

MODEL is a model directory, or "default" for the bundled one; DATA the folder of BEIR datasets. Dev splits of the six
training sets (200 questions, the passages named below) choose between models. The four zero-shot collections are whole,
with their first 300 questions: read their mean, tune to none. Without --k and --budget all tokens are compared.
"""

import argparse
import json
from pathlib import Path

from fastlane_rag import FastLaneModel
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.training.config import Source
from fastlane_rag.training.data import DevSet, load_dev
from fastlane_rag.training.monitor import dev_scores

SEED = 17
ZERO_SHOT = ("cacm", "trec_dl20_pool", "codebase_chunks", "cranfield")
DEV = {
    "squad": ("squad_dev", 1000),
    "fairytaleqa": ("fairytaleqa", 1200),
    "scifact": ("scifact", 1200),
    "nq": ("nq_gold_mix", 1500),
    "medquad": ("medquad", 800),
    "arxiv": ("arxiv_title", 1500),
}


def judged(name: str, data: Path) -> DevSet:
    """One collection with its questions."""
    if name in DEV:
        folder, size = DEV[name]
        return load_dev(name, Source(path=data / folder, split="dev", limit=200), size, SEED)
    dataset = load_dataset(data / name, "test")
    queries = dict(list(dataset.queries.items())[:300])
    documents = {p.id: p.content for p in dataset.passages()}
    return DevSet(name, queries, documents, {q: dataset.qrels[q] for q in queries})


def main(options: argparse.Namespace) -> None:
    """Judge, and print one JSON object a collection and the means."""
    source = None if options.model == "default" else options.model
    model = FastLaneModel.from_pretrained(source, document_budget=options.budget)
    figures = {}
    for name in options.sets:
        figures[name] = dev_scores(model, judged(name, options.data), tuple(options.k))
        print(json.dumps({name: {label: round(v, 4) for label, v in figures[name].items()}}), flush=True)
    for group, names in (("zero-shot", ZERO_SHOT), ("dev", DEV)):
        if found := [figures[n] for n in names if n in figures]:
            means = {label: round(sum(f[label] for f in found) / len(found), 4) for label in found[0]}
            print(json.dumps({f"mean of {len(found)} {group}": means}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=[*ZERO_SHOT, *DEV])
    parser.add_argument("--k", nargs="*", type=lambda k: k if k == "auto" else int(k), default=[])
    parser.add_argument("--budget", type=float, help="share of a document's tokens that is kept")
    main(parser.parse_args())
