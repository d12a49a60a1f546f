"""MaxSim alone: fastlane_rag.scoring and other implementations in one process, interleaved.

python benchmarks/kernels.py --dataset ../shared/data/scifact --cache ~/.cache/fastlane-rag --documents 2000 \
    --threads 2 --json benchmarks/results/kernels.json
python benchmarks/kernels.py --device cuda --json benchmarks/results/kernels-cuda.json

With --dataset the vectors are real token embeddings from the cache of `fastlane eval`. Without, they are random, which
takes the same time; only the errors of codes are larger. Rerank shapes have documents of one length, cut from the rows
in order; corpus scans have the real documents. Each engine gets its inputs in its own layout, prepared before the clock
starts, and must agree with the float64 definition before it is timed. On a CUDA device all engines compute in half
precision. For an engine that is not installed or fails, the results have the reason; the environment `scorers` of
install_peers.py has all engines.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kernel_engines import Problem, Run
    from torch import Tensor

RERANK = [
    (queries, documents, tokens) for tokens in (128, 300) for queries, documents in ((1, 100), (1, 1000), (32, 100))
]
"""Queries, documents, tokens per document."""

SCANS = {"cpu": (5_000,), "cuda": (100_000, 1_000_000)}
"""Documents of a corpus scan, one query."""

QUERY_TOKENS = 32
RANDOM_ROWS = 400_000
SCAN_TOKENS = 128
_TOLERANCE = 2e-2
_CHECKED = 20


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Rows to cut problems from.

    Attributes:
        source: description of the rows.
        queries: (M, d) float32 rows of query tokens.
        documents: (T, d) float32 or float16 rows.
        offsets: (N + 1,) int64 bounds of the documents.
    """

    source: str
    queries: np.ndarray
    documents: np.ndarray
    offsets: np.ndarray

    def problem(self, queries: int, lengths: np.ndarray, device: str) -> "Problem":
        """Documents of these lengths, cut from the beginning of the rows, which are repeated if they are too few."""
        import torch
        from kernel_engines import Problem

        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.resize(self.documents, (int(offsets[-1]), self.documents.shape[1])).astype(np.float32)
        asked = np.resize(self.queries, (queries * QUERY_TOKENS, self.queries.shape[1])).astype(np.float32)
        asked = asked.reshape(queries, QUERY_TOKENS, -1)
        return Problem(torch.from_numpy(asked), torch.from_numpy(rows), torch.from_numpy(offsets), device)


def random_rows(dim: int) -> Embeddings:
    """Unit vectors in documents of 128 tokens."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((RANDOM_ROWS, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Embeddings("random unit vectors", rows[:4096], rows, np.arange(0, RANDOM_ROWS + 1, SCAN_TOKENS))


def real_rows(arguments: argparse.Namespace) -> Embeddings:
    """Token embeddings of a dataset's documents and queries."""
    from side_by_side.export import export

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.dataset import load_dataset

    dataset, model = load_dataset(arguments.dataset, arguments.split, limit=200), FastLaneModel.from_pretrained()
    with tempfile.TemporaryDirectory(prefix="fastlane-kernels-") as folder:
        work = arguments.work or Path(folder)
        corpus = export(dataset, model, arguments.cache, work, documents=arguments.documents, dense=False)
        queries = np.concatenate([query.rows for query in corpus.queries()])
        facts = f"{corpus.facts['documents']} documents of {dataset.name}, {corpus.facts['model']}"
        return Embeddings(facts, queries, np.array(corpus.rows), corpus.offsets)


def wait(device: str) -> None:
    """Wait until the device has finished."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def ready(problem: "Problem") -> tuple[dict[str, "Run"], dict[str, float], dict[str, str]]:
    """The functions to time, their greatest errors, and the reasons why others are left out.

    Raises:
        SystemExit: an engine's scores are wrong.
    """
    import torch
    from kernel_engines import ENGINES

    from fastlane_rag.scoring.reference import reference_maxsim

    last = int(problem.offsets[_CHECKED])
    documents = problem.packed[:last].split(problem.lengths[:_CHECKED].tolist())
    expected = reference_maxsim(list(problem.queries[:1]), documents)
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name, engine in ENGINES.items():
        if problem.device not in engine.devices:
            continue
        if engine.missing():
            left_out[name] = "not installed"
            continue
        if not engine.takes(problem):
            left_out[name] = "the shape is beyond it"
            continue
        try:
            run = engine.prepare(problem)
            result = torch.as_tensor(run()).cpu()
        except (RuntimeError, ImportError, ValueError) as error:  # CUDA's out of memory is a RuntimeError
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        runs[name] = run
        if name == "BLAS only":
            continue
        errors[name] = float((result[:1, :_CHECKED].double() - expected).abs().max())
        if engine.exact and not errors[name] < _TOLERANCE * (1 if problem.device == "cpu" else 5):
            raise SystemExit(f"{name} is wrong by {errors[name]}")
    return runs, errors, left_out


def measure(problem: "Problem", repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Time every engine on one problem by a clock of seconds, round after round."""
    from kernel_engines import ENGINES, OURS, OURS_ON_CUDA

    runs, errors, left_out = ready(problem)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wait(problem.device)
            start = clock()
            run()
            wait(problem.device)
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = medians[OURS if problem.device == "cpu" else OURS_ON_CUDA]
    queries, dim = len(problem.queries), problem.packed.shape[1]
    numbers = len(problem.packed) * dim
    return {
        "queries": queries,
        "documents": len(problem.lengths),
        "dim": dim,
        "query_tokens": QUERY_TOKENS,
        "document_tokens": len(problem.packed),
        "engines": {
            name: {
                "median_ms": round(median * 1e3, 4),
                "min_ms": round(min(seconds[name]) * 1e3, 4),
                "ratio_to_fastlane": round(median / ours, 3),
                "gflops": round(2 * queries * QUERY_TOKENS * numbers / median / 1e9, 1),
                "document_gigabytes_a_second": round(numbers * stored(ENGINES[name], problem) / median / 1e9, 1),
                "queries_a_second": round(queries / median, 1),
                "max_error": errors.get(name),
            }
            for name, median in medians.items()
        },
        "left_out": left_out,
    }


def stored(engine: Any, problem: "Problem") -> float:
    """Bytes of one number of a document row, as the engine stores it on this device."""
    reduced = engine.bytes_a_number < 1 or engine.prepare.__qualname__.startswith("fastlane")
    return float(engine.bytes_a_number if reduced or problem.device != "cpu" else 4)


def copy_bandwidth(device: str, repeats: int) -> float:
    """Bandwidth of a copy in gigabytes per second, reads and writes together."""
    import torch

    source: Tensor = torch.empty(1 << (30 if device != "cpu" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return round(2 * len(source) / best / 1e9, 1)


def shapes(embeddings: Sequence[Embeddings], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every shape with every source of rows."""
    results = []
    for one in embeddings:
        problems = [("rerank", queries, np.full(count, tokens)) for queries, count, tokens in RERANK]
        real = np.diff(one.offsets)
        for count in arguments.scan or SCANS[arguments.device]:
            problems.append(("corpus scan", 1, np.resize(real, count)))
        for kind, queries, lengths in problems:
            clock = time.process_time if arguments.processor_time else time.perf_counter
            result = measure(one.problem(queries, lengths, arguments.device), arguments.repeats, clock)
            tokens = int(lengths[0]) if kind == "rerank" else None
            results.append({"kind": kind, "rows": one.source, "tokens_a_document": tokens, **result})
            show(results[-1])
    return results


def show(result: dict[str, Any]) -> None:
    """Print one shape's table."""
    tokens = result["tokens_a_document"] or f"{result['document_tokens'] / result['documents']:.0f} on average"
    shape = f"{result['queries']} x {result['documents']} documents of {tokens} tokens, dim {result['dim']}"
    print(f"\n{result['kind']}: {shape}, {result['rows']}")
    for name, row in sorted(result["engines"].items(), key=lambda item: item[1]["median_ms"]):
        print(
            f"  {name:32}{row['median_ms']:10.3f} ms {row['ratio_to_fastlane']:6.2f}x {row['gflops']:8.1f} GFLOPS"
            f" {row['document_gigabytes_a_second']:7.1f} GB/s",
            flush=True,
        )
    for name, reason in result["left_out"].items():
        print(f"  {name:32}left out: {reason}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="folder in BEIR's layout: real embeddings")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", type=Path, help="folder of encoded corpora, with --dataset")
    parser.add_argument("--work", type=Path, help="where to keep exported embeddings")
    parser.add_argument("--documents", type=int, help="of the dataset")
    parser.add_argument("--dim", type=int, nargs="+", default=[96, 128], help="of random rows, without --dataset")
    parser.add_argument("--scan", type=int, nargs="+", help="documents of the corpus scans")
    parser.add_argument("--device", choices=list(SCANS), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads each engine may use")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads, instead of the time on the clock: for one thread on cores that are busy with other work",
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    if (arguments.dataset is None) != (arguments.cache is None):
        parser.error("--dataset and --cache go together")
    return arguments


def main() -> None:
    """Measure every shape, print, and write the results."""
    arguments = parse()
    # Set before the libraries load, because Rayon and OpenMP read these only then.
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch
    from kernel_engines import ENGINES

    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    embeddings = [real_rows(arguments)] if arguments.dataset else [random_rows(dim) for dim in arguments.dim]
    load = os.getloadavg()[0]
    with torch.inference_mode():
        results = shapes(embeddings, arguments)
    packages = sorted({engine.package for engine in ENGINES.values() if engine.package and not engine.missing()})
    report = {
        "environment": environment().as_dict(),
        "peers": {name: importlib.metadata.version(name) for name in packages},
        "device": arguments.device,
        "copy_gigabytes_a_second": copy_bandwidth(arguments.device, arguments.repeats),
        "load_average_before": load,
        "repeats": arguments.repeats,
        "shapes": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
