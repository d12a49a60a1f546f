"""The vector lane beside the other lanes and dense HNSW: recall, milliseconds and bytes, also for long queries.

python benchmarks/vector_lane.py ../shared/data/scifact --cache ~/.cache/fastlane-rag/evaluation \
    --json benchmarks/results/vector-lane-scifact.json

Every query is one call with an encoded query, on one thread; encoding is not timed. Methods take turns on every query.
Beside wall-clock time stands the processor's, which other work on the machine disturbs less.
Recall is the share of the ten documents of exhaustive SumMaxSim that a method finds. Long queries are made of real
passages: whole passages of the corpus, one after the other from a place of their own, up to so many tokens.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.model import RoutedQuery

K = 10
WHOLE: dict[str, Any] = {"lane": "exhaustive", "route_k": "all"}
SETTINGS: dict[str, dict[str, Any]] = {
    "exhaustive": WHOLE,
    "default": {},
    "approximate, 4 tokens": {"lane": "approximate", "route_k": 4},
    "approximate, 16 tokens": {"lane": "approximate", "route_k": 16},
    "vector": {"lane": "vector"},
    "vector, 64 refined": {"lane": "vector", "depth": 64},
    "vector, 100 refined": {"lane": "vector", "depth": 100},
    "vector, 200 refined": {"lane": "vector", "depth": 200},
    "vector of 4 tokens": {"lane": "vector", "route_k": 4},
    "vector of 16 tokens": {"lane": "vector", "route_k": 16},
}
LONG = ("exhaustive", "default", "approximate, 16 tokens", "vector of 16 tokens", "vector, 64 refined")

Answer = Callable[[int], list[str]]
"""Ids for query number n."""


def vector_index(source: "FastLaneIndex", path: Path, model: "FastLaneModel") -> "tuple[FastLaneIndex, float]":
    """A copy in 4 bits with vectors, and the seconds that training, fitting and coding took."""
    from fastlane_rag import FastLaneIndex

    source.save(path, codec="auto", overwrite=True)
    start = time.perf_counter()
    with FastLaneIndex.open(path, model=model) as index:
        index.compact(retrain=True)
    return FastLaneIndex.open(path, model=model, read_only=True), time.perf_counter() - start


def searches(index: "FastLaneIndex", queries: "Sequence[RoutedQuery]", names: Sequence[str]) -> dict[str, Answer]:
    """A function for each setting."""

    def answer(options: dict[str, Any]) -> Answer:
        def of(number: int) -> list[str]:
            [result] = index.search_batch_detailed([queries[number]], K, **options)
            return [hit.id for hit in result.hits]

        return of

    return {name: answer(SETTINGS[name]) for name in names}


def dense_hnsw(model: "FastLaneModel", ids: list[str], vectors: Any, texts: Sequence[str]) -> Answer:
    """Dense retrieval with the same encoder, its queries encoded beforehand."""
    from fastlane_rag.evaluation.baselines import Hnsw

    known = iter(model.encode_dense_queries(list(texts)))
    ready = dict(zip(texts, known, strict=True))

    class Known:
        """Gives the vectors of queries that are encoded already."""

        def encode_dense_queries(self, some: Sequence[str]) -> Any:
            return np.stack([ready[text] for text in some])

    graph = Hnsw(Known(), ids, vectors)  # type: ignore[arg-type]
    return lambda number: graph.answer(texts[number], K).ids


def measure(answers: dict[str, Answer], count: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds and answers of every method; they take turns on each query."""
    found = {name: [answer(number) for number in range(count)] for name, answer in answers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    busy: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(repeats):
        for number in range(count):
            for name, answer in answers.items():
                start, worked = time.perf_counter(), time.process_time()
                answer(number)
                busy[name].append(time.process_time() - worked)
                seconds[name].append(time.perf_counter() - start)
    best = [{*ids} for ids in found["exhaustive"]]
    return {
        name: {
            "ms p50": round(statistics.median(seconds[name]) * 1e3, 3),
            "processor ms p50": round(statistics.median(busy[name]) * 1e3, 3),
            "ms p95": round(float(np.percentile(seconds[name], 95)) * 1e3, 3),
            "recall of exhaustive's ten": round(_recall(best, found[name]), 4),
            "answers": found[name],
        }
        for name in answers
    }


def _recall(best: list[set[str]], found: list[list[str]]) -> float:
    return float(np.mean([len(one & {*ids}) / max(1, len(one)) for one, ids in zip(best, found, strict=True)]))


def long_queries(dataset: "Dataset", model: "FastLaneModel", tokens: int, count: int) -> "list[RoutedQuery]":
    """Queries of so many token rows: passages of the corpus, encoded as queries, one after the other."""
    import torch

    from fastlane_rag.model import RoutedQuery

    passages = [passage.content for passage in dataset.passages()]
    found = []
    for number in range(count):
        place, parts = number * len(passages) // count, model.encode_routed([])
        while sum(len(part.embeddings) for part in parts) < tokens:
            parts += model.encode_routed([passages[place % len(passages)]])
            place += 1
        rows = torch.cat([part.embeddings for part in parts])[:tokens]
        scores = torch.cat([part.scores for part in parts])[:tokens]
        found.append(RoutedQuery(rows, scores, [token for part in parts for token in part.tokens][:tokens]))
    return found


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one dataset."""
    import torch

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.cache import CorpusCache
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.metrics import mean_scores, score_run
    from fastlane_rag.scoring import set_threads

    torch.set_num_threads(1)
    set_threads(1)
    model = FastLaneModel.from_pretrained()
    dataset = load_dataset(arguments.dataset, arguments.split, limit=arguments.queries)
    cache = CorpusCache(arguments.cache, dataset, model, lambda passages, _: passages)
    with tempfile.TemporaryDirectory(prefix="vector-lane-", dir=arguments.work) as place:
        with cache.index() as whole:
            index, seconds = vector_index(whole, Path(place, "index"), model)
        texts = list(dataset.queries.values())
        answers = searches(index, model.encode_routed(texts), list(SETTINGS))
        if arguments.dense:
            answers["dense HNSW"] = dense_hnsw(model, *cache.dense(), texts)
        found = measure(answers, len(texts), arguments.repeats)
        for one in found.values():
            ranked = dict(zip(dataset.queries, one.pop("answers"), strict=True))
            one["nDCG@10"] = round(mean_scores(score_run(dataset.qrels, ranked))["nDCG@10"], 4)
        longer = {}
        for tokens in arguments.long:
            queries = long_queries(dataset, model, tokens, arguments.long_queries)
            longer[tokens] = measure(searches(index, queries, LONG), len(queries), arguments.repeats)
            for one in longer[tokens].values():
                del one["answers"]
        stats, vectors = index.stats(), index._storage
        with vectors.view() as view:
            kept = [part.vectors for part in view.snapshot.parts if part.vectors is not None]
            of_vectors = sum(one.levels.nbytes + one.scales.nbytes for one in kept)
        index.close()
    return {
        "dataset": dataset.name,
        "documents": stats.documents,
        "tokens": stats.tokens,
        "queries": len(texts),
        "seconds to train, fit and code": round(seconds, 1),
        "bytes a document": round(stats.bytes_per_document),
        "of them the vector": round(of_vectors / stats.documents),
        "methods": found,
        "long queries": longer,
    }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a folder in BEIR's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=int, nargs="*", default=[16, 64, 256, 512], help="tokens of long queries")
    parser.add_argument("--long-queries", type=int, default=20)
    parser.add_argument("--dense", action="store_true", help="measure dense HNSW too")
    parser.add_argument("--cache", type=Path, required=True, help="of encoded corpora")
    parser.add_argument("--work", type=Path, default=None, help="folder for the index; default the system's")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    from fastlane_rag.evaluation.environment import environment

    result = {"environment": environment().as_dict(), **run(arguments)}
    text = json.dumps(result, indent=1)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
