"""Pools of passages, and how well every query token matches each passage: what weights and selection learn from.

    python examples/training/pools.py MODEL DATA SAMPLE POOLS [--sets scifact cacm ...]

MODEL is a model directory, packed or not, or "default" for the bundled one; DATA the folder of BEIR datasets; SAMPLE
the folder that broad.py made; POOLS gets one file a set, so that a stopped run goes on with the set it was at.
Documents are encoded once, by the model as users have it, up to MOST_TOKENS tokens.

Six sets have train, dev and test queries over one pool: what judges them, and other passages drawn at random. Further
train queries are those whose answers are in the pool. Headings of Python Enhancement Proposals and docstrings of
Python's standard library have train and dev queries. The collections in WHOLE are kept whole, and only ever judge.
"""

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from broad import read
from fastlane_rag import FastLaneModel
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.model.default import unpack_model
from fastlane_rag.scoring import token_maxima
from torch import Tensor

SEED, MOST_TOKENS, PASSAGES = 17, 256, 1600
TRAIN, DEV, TEST = 500, 150, 200
# Train queries more than TRAIN, at most; how many candidates are kept of a train query: the best, and some at random.
MORE = {"fairytaleqa": 1500, "medquad": 1000, "squad_dev": 1200, "nq_gold_mix": 400, "scifact": 200}
BEST, RANDOM = 96, 32
# The pairs of arXiv: what was trained on while the encoder learned is left out of the second part.
PAIRS = ((0, 500), (2600, 4100))
TRAIN_SPLITS = {"scifact": "train_minus_dev"}
SETS = ("scifact", "squad_dev", "nq_gold_mix", "medquad", "fairytaleqa", "arxiv_title")
DRAWN = ("peps", "code")
WHOLE = ("cranfield", "cacm", "codebase_chunks", "trec_dl20_pool")


@dataclass
class Pool:
    """Passages and judged queries.

    Attributes:
        name: of the set.
        texts: of the passages.
        queries: for each split, the texts and the grades of passages, by position.
        held: positions of passages that dev or test queries judge: no negatives of train queries.
    """

    name: str
    texts: list[str] = field(default_factory=list)
    queries: dict[str, list[tuple[str, dict[int, int]]]] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)


def pool(name: str, data: Path, sample: Path) -> Pool:
    """The passages and queries of one set; equal at every call."""
    if name in DRAWN:
        return _drawn(name, sample)
    if name in WHOLE:
        return _judged(name, data, {"test": ("test", 300)}, None)
    splits = {"dev": ("dev", DEV), "test": ("test", TEST)}
    if name != "arxiv_title":
        return _judged(name, data, {**splits, "train": (TRAIN_SPLITS.get(name, "train"), TRAIN)}, PASSAGES)
    made = _judged(name, data, splits, PASSAGES - TRAIN)
    with gzip.open(data / name / "train_pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in islice(lines, PAIRS[-1][1])]
    pairs = [pair for first, last in PAIRS for pair in pairs[first:last]]
    made.queries["train"] = [(pair["query"], {len(made.texts) + i: 1}) for i, pair in enumerate(pairs)]
    made.texts += [pair["pos"] for pair in pairs]
    return made


def _judged(name: str, data: Path, splits: dict[str, tuple[str, int]], most: int | None) -> Pool:
    made, draw = Pool(name), random.Random(f"{SEED}-{name}")
    every: dict[str, list[tuple[str, dict[str, int]]]] = {}
    passages: dict[str, str] = {}
    for split, (stored, _) in splits.items():
        dataset = load_dataset(data / name, stored)
        passages = passages or {p.id: p.content for p in dataset.passages()}
        judged = [
            (dataset.queries[q], {d: grade for d, grade in grades.items() if d in passages})
            for q, grades in dataset.qrels.items()
        ]
        judged = [(text, grades) for text, grades in judged if any(grade > 0 for grade in grades.values())]
        if name not in WHOLE:
            draw.shuffle(judged)
        every[split] = judged
    asked = {split: every[split][:count] for split, (_, count) in splits.items()}
    chosen = dict.fromkeys(d for queries in asked.values() for _, grades in queries for d in grades)
    others = sorted(set(passages) - set(chosen))
    draw.shuffle(others)
    kept = [*chosen, *(others if most is None else others[: max(0, most - len(chosen))])]
    place = {d: i for i, d in enumerate(kept)}
    made.texts = [passages[d] for d in kept]
    made.queries = {
        s: [(text, {place[d]: g for d, g in grades.items()}) for text, grades in a] for s, a in asked.items()
    }
    made.held = {d for split in ("dev", "test") for _, grades in made.queries.get(split, ()) for d in grades}
    if name in MORE:
        taken = {text for queries in asked.values() for text, _ in queries}
        further = [
            (text, {place[d]: grade for d, grade in grades.items()})
            for text, grades in every["train"]
            if text not in taken and all(d in place and place[d] not in made.held for d in grades)
        ]
        made.queries["train"] += further[: MORE[name]]
    return made


def _drawn(name: str, sample: Path) -> Pool:
    """Labelled queries of a domain of `broad.py` without a split of its own, some of them as dev queries."""
    (domain,) = (one for one in read(sample) if one.name == name)
    most = PASSAGES - 400
    asked = [
        (text, dict.fromkeys(gold, 1))
        for text, gold, labelled in zip(domain.queries, domain.gold, domain.labelled, strict=True)
        if labelled and max(gold) < most
    ]
    dev = asked[: TRAIN + DEV : 6]
    queries = {"train": [one for one in asked if one not in dev], "dev": dev}
    return Pool(name, domain.texts[:most], queries, {d for _, gold in dev for d in gold})


def encoded(model: FastLaneModel, text: str) -> dict[str, Tensor]:
    """One query: ids (L,), states (L, h) and unit rows (L, dim) of its scored tokens, and its contextual views."""
    seen: dict[str, Tensor] = {}

    def watch(module: Any, inputs: Any, features: dict[str, Any]) -> None:
        mask = features["attention_mask"][0].bool()
        seen.update(ids=features["input_ids"][0][mask].clone(), states=features["token_embeddings"][0][mask].clone())

    hook = model.encoder.query_router.register_forward_hook(watch)
    try:
        (query,) = model.encode_routed([text])
    finally:
        hook.remove()
    found = {**seen, "rows": query.embeddings, "scores": query.scores}
    return found if query.views is None else {**found, "views": query.views}


def candidates(maxima: Tensor, gold: list[int], held: Tensor, draw: torch.Generator) -> Tensor:
    """(C, L) maxima of the answers, of the best other passages by full SumMaxSim, and of random ones; none is held."""
    full = maxima.mean(1).masked_fill(held, -1)
    full[gold] = -1
    best = torch.topk(full, min(BEST, len(full))).indices
    drawn = torch.randint(len(maxima), (RANDOM,), generator=draw)
    others = torch.cat([best, drawn])
    return torch.cat([maxima[gold], maxima[others[full[others] > -1]]])


def make(model: FastLaneModel, made: Pool) -> dict[str, Any]:
    """Encode a pool: its documents, and each query with `maxima`, its tokens' best match in each document.

    Of train queries, `maxima` is of `candidates`, of which the first `answers` are right; of others, of all documents.
    """
    documents = []
    for first in range(0, len(made.texts), 64):
        documents += [rows.half() for rows in model.encode_documents(made.texts[first : first + 64])]
        if first % 640 == 0:
            print(f"{made.name}: {first} of {len(made.texts)} passages", flush=True)
    lengths = torch.tensor([len(rows) for rows in documents])
    rows, offsets = torch.cat(documents), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    held, draw = torch.zeros(len(made.texts), dtype=torch.bool), torch.Generator().manual_seed(SEED)
    held[sorted(made.held)] = True
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, queries in made.queries.items():
        for text, grades in queries:
            query: dict[str, Any] = encoded(model, text)
            query["maxima"] = token_maxima(query["rows"], rows, offsets)[0]
            query["grades"], query["text"] = grades, text
            if split == "train":
                gold = [d for d, grade in grades.items() if grade > 0]
                query["maxima"], query["answers"] = candidates(query["maxima"], gold, held, draw), len(gold)
            splits.setdefault(split, []).append(query)
    return {"queries": splits, "rows": rows, "offsets": offsets}


def load(folder: Path, names: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The queries of pools that were made, by set and split."""
    found = {}
    for name in names:
        queries = torch.load(folder / f"{name}.pt", weights_only=True)["queries"]
        found[name] = {split: queries[split] for split in splits if split in queries}
    return found


def main(options: argparse.Namespace) -> None:
    """Make the pools that are not there yet."""
    options.pools.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        unpacked = None
        if options.model != "default":
            unpack_model(Path(options.model), unpacked := Path(work) / "model")
        model = FastLaneModel.from_pretrained(unpacked, device="cpu").bounded(MOST_TOKENS)
        for name in options.sets:
            file = options.pools / f"{name}.pt"
            if not file.exists():
                torch.save(make(model, pool(name, options.data, options.sample)), part := file.with_suffix(".part"))
                part.rename(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name in ("data", "sample", "pools"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--sets", nargs="+", default=[*SETS, *DRAWN, *WHOLE])
    main(parser.parse_args())
