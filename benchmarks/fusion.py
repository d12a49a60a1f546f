"""How a hybrid search joins SumMaxSim and BM25: nDCG@10 of every fusion on cuts of collections.

python benchmarks/fusion.py ../shared/data/squad_dev:dev ../shared/data/scifact:dev ../shared/data/cacm:test

A cut has every document that is judged relevant, and others at even distances up to `--most-documents`. "repaired" is
how many queries have a relevant document first by `hybrid=True` and not by SumMaxSim, "broken" the opposite.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from fastlane_rag import FastLaneIndex
from fastlane_rag.evaluation.dataset import Dataset, load_dataset
from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.search.policy import SearchPolicy

FUSIONS: dict[str, dict[str, Any]] = {
    "SumMaxSim": {},
    "BM25": {"lane": "words"},
    "hybrid=True": {"hybrid": True},
    **{f"hybrid={weight}": {"hybrid": weight} for weight in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)},
    **{
        f"rrf, constant {constant}, weight {weight}": {
            "hybrid": weight,
            "fusion": "rrf",
            "policy": SearchPolicy(rrf_constant=constant),
        }
        for constant in (10, 60)
        for weight in (0.3, 0.5)
    },
}


def main() -> None:
    """Print one JSON object a collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="dataset folders, each with its split: DIR:dev")
    parser.add_argument("--most-queries", type=int, default=120)
    parser.add_argument("--most-documents", type=int, default=1500)
    arguments = parser.parse_args()
    for place in arguments.datasets:
        folder, _, split = place.rpartition(":")
        dataset = load_dataset(folder, split, limit=arguments.most_queries)
        print(json.dumps({"dataset": Path(folder).name, **measured(dataset, arguments.most_documents)}), flush=True)


def measured(dataset: Dataset, most: int) -> dict[str, Any]:
    """The figures of one collection."""
    passages = list(dataset.passages())
    judged = {id_ for relevant in dataset.qrels.values() for id_, grade in relevant.items() if grade > 0}
    others = [passage for passage in passages if passage.id not in judged]
    room = max(0, most - len(judged))
    chosen = [passage for passage in passages if passage.id in judged]
    chosen += others[:: max(1, len(others) // max(1, room))][:room]
    queries, texts = list(dataset.queries), list(dataset.queries.values())
    figures: dict[str, Any] = {"documents": len(chosen), "queries": len(queries)}
    first: dict[str, list[bool]] = {}
    with FastLaneIndex.create() as index:
        index.add([passage.text for passage in chosen], [passage.id for passage in chosen], show_progress=False)
        encoded = index.model.encode_routed(texts)
        for name, options in FUSIONS.items():
            results = index.search_batch_detailed(encoded, 10, texts=texts, **options)
            run = {query: [hit.id for hit in result.hits] for query, result in zip(queries, results, strict=True)}
            figures[name] = round(mean_scores(score_run(dataset.qrels, run))["nDCG@10"], 4)
            first[name] = [any(dataset.qrels[query].get(id_, 0) > 0 for id_ in run[query][:1]) for query in queries]
    plain, hybrid = first["SumMaxSim"], first["hybrid=True"]
    figures["repaired"] = sum(now and not before for before, now in zip(plain, hybrid, strict=True))
    figures["broken"] = sum(before and not now for before, now in zip(plain, hybrid, strict=True))
    return figures


if __name__ == "__main__":
    main()
