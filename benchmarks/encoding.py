"""Encoding on a CPU: torch and onnxruntime in every number format, in turns, with what each costs in quality.

python benchmarks/encoding.py --json benchmarks/results/encoding.json
python benchmarks/encoding.py --quality ../shared/data/squad_dev:dev ../shared/data/cacm:test --most-documents 1200

Times are of the processor, so that a busy machine changes them less, and medians over rounds in which every format has
its turn. A query is the whole of `encode_routed` for one text; documents are passages of the packaged sample through
`encode_documents`. Cosines are of token embeddings with torch's in float32. The index is made by `FastLaneIndex.ingest`
of the same passages, as wall-clock seconds. Quality is nDCG@10 of full SumMaxSim with queries and documents in the
formats named: of a large collection the judged documents and a random part of the others.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from fastlane_rag import FastLaneModel

FORMATS = {
    "torch float32": {"backend": "torch", "dtype": "float32"},
    "torch bfloat16": {"backend": "torch", "dtype": "bfloat16"},
    "onnx float32": {"backend": "onnx", "dtype": "float32"},
    "onnx int8": {"backend": "onnx", "dtype": "int8"},
}
PAIRS = [
    ("torch float32", "torch float32"),
    ("torch bfloat16", "torch bfloat16"),
    ("onnx float32", "onnx int8"),
    ("onnx int8", "onnx int8"),
]
"""Formats of queries and of documents; the first is the reference."""

QUERY = "Which PEP introduced the walrus operator, and why?"
REPEATED = 10


def main() -> None:
    """Measure what was asked for, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder; the bundled one when left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=128, help="passages encoded in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--index", type=int, default=0, help="passages of an index made in each round; 0 for none")
    parser.add_argument("--quality", nargs="*", default=[], help="dataset folders, each with its split: DIR:dev")
    parser.add_argument("--most-queries", type=int, default=250)
    parser.add_argument("--most-documents", type=int, default=1200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    models = {name: FastLaneModel.from_pretrained(arguments.model, **given) for name, given in FORMATS.items()}
    for name, model in models.items():
        if not name.startswith(model.backend):
            sys.exit(f"{name} cannot be measured: the model is run by {model.backend}")
    found: dict[str, Any] = {
        "environment": asdict(environment()),
        "threads": arguments.threads,
        "machine": platform.machine(),
    }
    if arguments.rounds:
        found["times"] = times(models, arguments)
        show(found["times"])
    for place in arguments.quality:
        folder, _, split = place.rpartition(":")
        measured = quality(models, Path(folder), split, arguments)
        found.setdefault("quality", {})[Path(folder).name] = measured
        print(Path(folder).name, json.dumps(measured), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def times(models: "dict[str, FastLaneModel]", arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Processor milliseconds of a query, and microseconds of a document's token, by format; cosines beside them."""
    passages = list(sample())
    step = max(1, len(passages) // arguments.documents)
    texts = passages[::step][: arguments.documents]
    queries: dict[str, list[float]] = {name: [] for name in models}
    documents: dict[str, list[float]] = {name: [] for name in models}
    indexes: dict[str, list[float]] = {name: [] for name in models}
    rows: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for _ in range(arguments.rounds + 1):  # the first one warms up
        for name, model in models.items():
            model.encode_routed([QUERY])
            queries[name].append(cost(lambda model=model: [model.encode_routed([QUERY]) for _ in range(REPEATED)]))
            kept: list[list[Tensor]] = []
            documents[name].append(cost(lambda model=model, kept=kept: kept.append(model.encode_documents(texts))))
            rows[name] = model.encode_queries([QUERY]), kept[0]
            if arguments.index:
                indexes[name].append(seconds_to_index(model, passages[: arguments.index]))
    tokens = sum(map(len, rows["torch float32"][1]))
    exact = rows["torch float32"]
    return {
        name: {
            "query_ms": statistics.median(queries[name][1:]) / REPEATED * 1e3,
            "document_us_a_token": statistics.median(documents[name][1:]) / tokens * 1e6,
            **({"index_seconds": statistics.median(indexes[name][1:])} if arguments.index else {}),
            **{f"query_cosine_{key}": value for key, value in cosines(rows[name][0], exact[0]).items()},
            **{f"document_cosine_{key}": value for key, value in cosines(rows[name][1], exact[1]).items()},
        }
        for name in models
    }


def sample() -> Iterator[str]:
    """The passages of the packaged sample."""
    from fastlane_rag.data import read_passages, sample_path

    return (passage.content for passage in read_passages(sample_path()))


def cost(call: Callable[[], object]) -> float:
    """Processor seconds."""
    start = time.process_time()
    call()
    return time.process_time() - start


def seconds_to_index(model: "FastLaneModel", texts: list[str]) -> float:
    """Wall-clock seconds of an index in memory."""
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.types import Document

    start = time.perf_counter()
    with FastLaneIndex.create(model=model) as index:
        index.ingest(Document(str(number), text) for number, text in enumerate(texts))
    return time.perf_counter() - start


def cosines(ours: "list[Tensor]", exact: "list[Tensor]") -> dict[str, float]:
    """Of token embeddings: mean, hundredth and lowest."""
    found = np.concatenate([(a * b).sum(1).numpy() for a, b in zip(ours, exact, strict=True)])
    return {"mean": float(found.mean()), "p1": float(np.quantile(found, 0.01)), "lowest": float(found.min())}


def quality(
    models: "dict[str, FastLaneModel]", folder: Path, split: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """nDCG@10 times 100 by formats of queries and documents."""
    import torch

    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.metrics import mean_scores, score_run
    from fastlane_rag.scoring import maxsim

    data = load_dataset(folder, split, limit=arguments.most_queries)
    passages = list(data.passages())
    judged = {id_ for one in data.qrels.values() for id_ in one}
    others = np.random.default_rng(1).permutation([one.id for one in passages if one.id not in judged])
    chosen = judged | set(others[: max(0, arguments.most_documents - len(judged))].tolist())
    corpus = [passage for passage in passages if passage.id in chosen]
    texts, ids = [passage.content for passage in corpus], [passage.id for passage in corpus]
    names = list(data.queries)
    measured = {"documents": float(len(texts)), "queries": float(len(names))}
    packed: dict[str, tuple[Tensor, Tensor]] = {}
    for of_queries, of_documents in PAIRS:
        if of_documents not in packed:
            rows = models[of_documents].encode_documents(texts)
            packed[of_documents] = torch.cat(rows), torch.tensor([0, *np.cumsum([len(one) for one in rows])])
        run = {}
        for name in names:
            (query,) = models[of_queries].encode_queries([data.queries[name]])
            rows_, offsets = packed[of_documents]
            scores = maxsim(query, rows_, document_offsets=offsets)[0]
            run[name] = [ids[i] for i in scores.argsort(descending=True, stable=True)[:100].tolist()]
        measured[f"{of_queries} / {of_documents}"] = 100 * mean_scores(score_run(data.qrels, run))["nDCG@10"]
    return measured


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the times as a table."""
    print("| format | one query, processor ms | documents, processor us a token | cosine of queries | of documents |")
    print("|---|---|---|---|---|")
    for name, one in found.items():
        print(
            f"| {name} | {one['query_ms']:.2f} | {one['document_us_a_token']:.0f} | {one['query_cosine_mean']:.5f} | "
            f"{one['document_cosine_mean']:.5f} (lowest {one['document_cosine_lowest']:.4f}) |"
            + (f" {one['index_seconds']:.1f} s" if "index_seconds" in one else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
