"""The engine alone: size of an index in code, time of a search, and loss of quality.

python benchmarks/engine.py ../shared/data/scifact --cache ~/.cache/fastlane-rag --json benchmarks/results/engine.json

The corpus is encoded once into the cache (as `fastlane eval` does; its caches are shared) and copied from there into an
index for each number of bits. Queries are encoded before the clock starts, and searched one per call. Every run is
compared with exhaustive SumMaxSim of all query tokens, over the same codes and over half precision. Other engines can
be added to ENGINES: for each setting, an engine gives a function that answers one query.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.model import RoutedQuery

K = 10
Answer = Callable[["RoutedQuery"], list[str]]


@dataclass(frozen=True, slots=True)
class Setting:
    """One point on an engine's curve.

    Attributes:
        engine: name of the engine.
        knobs: values of the options.
        answer: returns the ids of the K best, best first.
    """

    engine: str
    knobs: dict[str, Any]
    answer: Answer


def searching(index: "FastLaneIndex", **options: Any) -> Answer:
    """Search with these options."""

    return lambda query: [hit.id for hit in index.search_batch_detailed([query], K, **options)[0].hits]


def fastlane(index: "FastLaneIndex", arguments: argparse.Namespace) -> Iterator[Setting]:
    """Settings of an index: exhaustive, default, and a grid of the approximate lane."""
    yield Setting("exhaustive", {}, searching(index, route_k="all", lane="exhaustive"))
    if index.stats().codec == "fp16":  # there are no posting lists
        return
    yield Setting("default", {}, searching(index))
    for route_k in arguments.route_k:
        for nprobe in arguments.nprobe:
            for depth in arguments.depth:
                knobs = {"route_k": route_k, "nprobe": nprobe, "depth": depth}
                yield Setting("approximate", knobs, searching(index, lane="approximate", **knobs))


ENGINES = [fastlane]


def measure(setting: Setting, dataset: "Dataset", queries: dict[str, "RoutedQuery"], repeats: int) -> dict[str, Any]:
    """Quality, and seconds of every query: the least of its repeats, because other work only adds time."""
    from fastlane_rag.evaluation.metrics import mean_scores, score_run

    run = {name: setting.answer(query) for name, query in queries.items()}
    seconds = dict.fromkeys(queries, float("inf"))
    for _ in range(repeats):
        for name, query in queries.items():
            start = time.perf_counter()
            setting.answer(query)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    ordered = sorted(seconds.values())
    return {
        "engine": setting.engine,
        **setting.knobs,
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p95_ms": round(ordered[int(0.95 * len(ordered))] * 1e3, 3),
        "nDCG@10": round(mean_scores(score_run(dataset.qrels, run))["nDCG@10"], 4),
        "run": run,
    }


def against(results: list[dict[str, Any]], exact: dict[str, list[str]]) -> None:
    """Add each result's recall of the exhaustive result over its own codes (the first), and of that over fp16."""
    own = results[0]["run"]
    for result in results:
        run = result.pop("run")
        result["of_exhaustive_nDCG@10"] = round(result["nDCG@10"] / results[0]["nDCG@10"], 4)
        for name, other in (("shared_with_exhaustive", own), ("shared_with_fp16", exact)):
            shared = [len(set(ids) & set(other[query])) / max(1, len(other[query])) for query, ids in run.items()]
            result[name] = round(statistics.mean(shared), 4)


class Prepared:
    """A model that returns the token rows of an index, in the order of its documents, instead of encoding."""

    def __init__(self, source: "FastLaneIndex") -> None:
        self.name, self.fingerprint, self.dim = source.model.name, source.model.fingerprint, source.dim
        self._rows = self._of(source)

    def encode_documents(self, texts: list[str], **_: Any) -> list[Any]:
        """The rows of the next documents."""
        return [rows for _, rows in zip(texts, self._rows, strict=False)]

    def encode_routed(self, texts: list[str], **_: Any) -> list[Any]:
        """Not needed, because queries are encoded before."""
        raise NotImplementedError

    @staticmethod
    def _of(source: "FastLaneIndex") -> Iterator[Any]:
        with source._storage.view() as view:
            placed = view.reader.placed([part.segment for part in view.snapshot.parts])
        yield from view.snapshot.rows_at((segment, row) for _, segment, row in placed)


def build(source: "FastLaneIndex", folder: Path, bits: int) -> tuple["FastLaneIndex", dict[str, Any]]:
    """Build an index in code from the token rows of another; also returns time and size."""
    from fastlane_rag import FastLaneIndex

    documents = source.get(source.ids())
    with FastLaneIndex.create(folder, model=Prepared(source), codec=f"residual{bits}") as index:
        start = time.perf_counter()
        index.add([document.text for document in documents], [document.id for document in documents])
        seconds = time.perf_counter() - start
    files = sum(file.stat().st_size for file in (folder / "segments").iterdir())
    start = time.perf_counter()
    index = FastLaneIndex.open(folder, model=source.model, read_only=True)
    opening = time.perf_counter() - start
    stats = index.stats()
    return index, {
        "codec": stats.codec,
        "build_seconds": round(seconds, 2),
        "open_ms": round(opening * 1e3, 2),
        "segment_megabytes": round(files / 1e6, 2),
        "segment_bytes_per_document": round(files / stats.documents, 1),
        "segment_bytes_per_token": round(files / stats.tokens, 2),
    }


def show(facts: dict[str, Any]) -> None:
    """Print what was measured on one index."""
    print({name: value for name, value in facts.items() if name != "results"})
    for result in facts["results"]:
        print("  ", result, flush=True)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="queries")
    parser.add_argument("--cache", type=Path, required=True, help="folder of encoded corpora")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--route-k", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--nprobe", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--depth", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.cache import CorpusCache
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.dataset, arguments.split, limit=arguments.limit)
    model = FastLaneModel.from_pretrained()
    source = CorpusCache(arguments.cache, dataset, model, lambda passages, _: passages).index()
    routed = model.encode_routed(list(dataset.queries.values()))
    queries = dict(zip(dataset.queries, routed, strict=True))
    load, indexes, exact = os.getloadavg()[0], [], {}
    with tempfile.TemporaryDirectory(prefix="fastlane-engine-") as folder:
        for bits in [None, *arguments.bits]:
            index, facts = (source, {"codec": "fp16"}) if bits is None else build(source, Path(folder, str(bits)), bits)
            settings = [setting for engine in ENGINES for setting in engine(index, arguments)]
            facts["results"] = [measure(setting, dataset, queries, arguments.repeats) for setting in settings]
            exact = exact or facts["results"][0]["run"]
            against(facts["results"], exact)
            show(facts)
            indexes.append(facts)
            if bits is not None:
                index.close()
    if arguments.json:
        report = {
            "environment": environment().as_dict(),
            "load_average_before": load,
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "dataset": {"name": dataset.name, "split": dataset.split, "queries": len(queries)},
            "documents": source.stats().documents,
            "tokens": source.stats().tokens,
            "dim": source.dim,
            "repeats": arguments.repeats,
            "indexes": indexes,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
