"""One query from its text to ten texts, encoding included: FastLane beside dense retrieval with the same encoder.

python benchmarks/end_to_end.py ../shared/data/scifact --cache ~/.cache/fastlane-rag \
    --json benchmarks/results/end-to-end-scifact.json

It runs on the CPU, with one query per call; methods alternate on every query. Dense retrieval is the mean-pooled vector
of the same encoder, faiss's HNSW, and texts in a dictionary. Stages are timed in a separate pass, because timers take
time too; "other" is the time that no timer covers.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from side_by_side.corpus import Corpus
from side_by_side.engine import K
from side_by_side.judging import percentiles, quality
from side_by_side.stages import Target, counted, target

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex, FastLaneModel

Answer = Callable[[str], list[str]]
DENSE = "dense HNSW"
WARM_UP = 20
SEARCH_STAGES = (
    ("route", "fastlane_rag.model:RoutedQuery.select"),
    ("route", "fastlane_rag.model:RoutedQuery.compared"),
    ("gather", "fastlane_rag.search.lanes.approximate:_in_code"),
    ("gather", "fastlane_rag.search.lanes.approximate:probe"),
    ("gather", "fastlane_rag.search.lanes.gather:Gatherer.gather"),
    ("sift", "fastlane_rag.search.vectors:Guess.__call__"),
    ("re-score", "fastlane_rag.scoring.codes:CodedQuery.near_scores"),
    ("gather", "fastlane_rag.search.engines.host:exhaustive"),
    ("refine", "fastlane_rag.scoring.codes:CodedQuery.scores"),
    ("refine", "fastlane_rag.search.engines.host:rescore"),
    ("fetch", "fastlane_rag.search.plan:_Plan._fetch"),
)


class Dense:
    """Dense retrieval, as a vector store does it.

    Args:
        model: encodes the query.
        corpus: vectors and texts.
    """

    def __init__(self, model: "FastLaneModel", corpus: Corpus) -> None:
        import faiss

        self._model = model
        self._ids = corpus.ids
        self._texts = dict(zip(corpus.ids, corpus.texts(), strict=True))
        self._graph = faiss.IndexHNSWFlat(corpus.dense.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction = 200
        self._graph.add(corpus.dense)
        self._graph.hnsw.efSearch = 64

    def search(self, vector: np.ndarray) -> list[int]:
        """Numbers of the nearest documents."""
        _, found = self._graph.search(vector, K)
        return [number for number in found[0].tolist() if number >= 0]

    def fetch(self, numbers: list[int]) -> list[tuple[str, str]]:
        """Ids and texts."""
        return [(self._ids[number], self._texts[self._ids[number]]) for number in numbers]

    def answer(self, text: str) -> list[str]:
        """Encode, search, fetch."""
        return [id_ for id_, _ in self.fetch(self.search(self._model.encode_dense_queries([text])))]


def searching(index: "FastLaneIndex", **options: Any) -> Answer:
    """Search by `index.search`."""
    return lambda text: [hit.id for hit in index.search(text, K, **options)]


def methods(index: "FastLaneIndex", dense: Dense) -> dict[str, Answer]:
    """All methods by name."""
    return {
        DENSE: dense.answer,
        "fastlane default": searching(index),
        "fastlane k=1": searching(index, route_k=1),
        "fastlane k=4": searching(index, route_k=4),
        "fastlane hybrid": searching(index, hybrid=True),
    }


def take_turns(answers: dict[str, Answer], texts: Sequence[str], repeats: int) -> dict[str, list[list[float]]]:
    """Seconds of every query by method, one list per repeat; each method is first equally often."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in answers}
    names = list(answers)
    for _ in range(repeats):
        for of_method in seconds.values():
            of_method.append([])
        for number, text in enumerate(texts):
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                start = time.perf_counter()
                answers[name](text)
                seconds[name][-1].append(time.perf_counter() - start)
    return seconds


def stages_of(answer: Answer, texts: Sequence[str], stages: Sequence[tuple[str, Target]]) -> dict[str, float]:
    """Median milliseconds of each stage of a method."""
    taken: list[dict[str, float]] = []
    with counted(stages) as counter:
        for text in texts[:WARM_UP]:
            answer(text)
        counter.take()
        for text in texts:
            start = time.perf_counter()
            answer(text)
            whole = time.perf_counter() - start
            found = counter.take()
            taken.append({**found, "other": whole - sum(found.values())})
    names = dict.fromkeys(name for one in taken for name in one)
    return {name: round(float(np.median([one.get(name, 0.0) for one in taken])) * 1e3, 4) for name in names}


def measure(model: "FastLaneModel", index: "FastLaneIndex", corpus: Corpus, repeats: int) -> list[dict[str, Any]]:
    """Measure every method: times, their ratio to dense retrieval's, stages and quality."""
    dense = Dense(model, corpus)
    answers, texts = methods(index, dense), [query.text for query in corpus.queries()]
    ids = [query.id for query in corpus.queries()]
    for answer in answers.values():
        for text in texts[:WARM_UP]:
            answer(text)
    seconds = take_turns(answers, texts, repeats)
    encoding: list[tuple[str, Target]] = [
        ("tokenise", (model.encoder, "preprocess")),
        ("encode, beside the transformer", (model, "encode_routed")),
        ("encode, beside the transformer", (model, "encode_dense_queries")),
        ("transformer", (model.encoder.transformer, "forward")),
    ]
    search = [(stage, target(path)) for stage, path in SEARCH_STAGES]
    vectors: list[tuple[str, Target]] = [("gather", (dense, "search")), ("fetch", (dense, "fetch"))]
    exact = {
        query: searching(index, route_k="all", lane="exhaustive")(text) for query, text in zip(ids, texts, strict=True)
    }
    baseline = percentiles(seconds[DENSE])
    rows = []
    for name, answer in answers.items():
        times = percentiles(seconds[name])
        run = {query: answer(text) for query, text in zip(ids, texts, strict=True)}
        rows.append(
            {
                "method": name,
                **times,
                "p50 over dense": round(times["p50_ms"] / baseline["p50_ms"], 3),
                "p95 over dense": round(times["p95_ms"] / baseline["p95_ms"], 3),
                "stages_ms": stages_of(answer, texts, [*encoding, *(vectors if name == DENSE else search)]),
                **quality(run, corpus.qrels, exact),
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line per method."""
    print(f"{'method':20}{'p50 ms':>10}{'p95 ms':>10}{'over dense':>12}{'nDCG@10':>10}  stages, ms")
    for row in rows:
        stages = ", ".join(f"{name} {value:.2f}" for name, value in row["stages_ms"].items())
        times = f"{row['p50_ms']:10.2f}{row['p95_ms']:10.2f}{row['p50 over dense']:12.2f}"
        print(f"{row['method']:20}{times}{row['nDCG@10']:10.4f}  {stages}")


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", type=Path, required=True, help="folder of encoded corpora")
    parser.add_argument("--work", type=Path, help="where to keep embeddings and the index")
    parser.add_argument("--documents", type=int, help="a subset, as in peers.py")
    parser.add_argument("--queries", type=int, help="at most so many")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch
    from side_by_side.engines.fastlane import engine
    from side_by_side.export import export

    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.dataset, arguments.split, limit=arguments.queries)
    model = FastLaneModel.from_pretrained(device="cpu")
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlane-end-to-end-")))
        corpus = export(dataset, model, arguments.cache, work, documents=arguments.documents)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="index-", dir=work)))
        engine().build(corpus, folder)
        load = os.getloadavg()[0]
        with FastLaneIndex.open(folder, model=model, read_only=True) as index:
            rows = measure(model, index, corpus, arguments.repeats)
        tokens = [len(query.rows) for query in corpus.queries()]
        report = {
            "environment": environment().as_dict(),
            "load_average_before": load,
            "corpus": corpus.facts,
            "median_query_tokens": int(np.median(tokens)),
            "encoder_dtype": str(next(model.encoder.transformer.parameters()).dtype).removeprefix("torch."),
            "k": K,
            "repeats": arguments.repeats,
            "methods": rows,
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    sys.exit(main())
