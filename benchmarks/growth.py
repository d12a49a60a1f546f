"""Latency, recall of the exhaustive ten, opening time, memory and bytes of an index as its corpus grows.

python benchmarks/growth.py ../shared/data/arxiv_title --cache ~/.cache/fastlane-rag --sizes 1000 10000 100000 1000000 \
    --tokens all 32 --json benchmarks/results/growth.json

Up to the size of the dataset the documents are real. Beyond it they are synthetic: copies of real documents under
other ids, with their token rows moved by small random vectors; the results say how many. With a number for --tokens,
that many evenly spaced rows of each document are kept, as document routing might. Sizes that need more disk than
allowed are left out, and the results say so. Each size is built in one process and searched in new ones, with the file
system's cache as the process before left it.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from side_by_side.corpus import Corpus
from side_by_side.engine import K
from side_by_side.grown import Grown, write_grown
from side_by_side.judging import percentiles
from side_by_side.runs import Runner

_TEXT_BYTES = 1800
"""Approximate bytes of a document with its text in the catalogue, to predict the disk that a size needs."""
_TOKEN_BYTES = 10
"""Bytes of a token in a segment besides its residual: centroid, scale, posting."""


def foreseen_bytes(corpus: Grown) -> int:
    """Approximate disk that writing the index needs, in bytes."""
    bits = 4
    token = corpus.facts["dim"] * bits // 8 + _TOKEN_BYTES
    return corpus.facts["tokens"] * token * 2 + corpus.facts["documents"] * _TEXT_BYTES  # merging writes twice


def measure(corpus: Grown, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Build an index of one size, search it in fresh processes, and remove it."""
    runner = Runner("fastlane", "fastlane_default", "ours", sys.executable)
    index, timeout = folder / "index", 60 * arguments.timeout
    try:
        built = runner.run("build", corpus, index, arguments.threads, timeout)
        searched = [runner.run("search", corpus, index, arguments.threads, timeout) for _ in range(arguments.repeats)]
    finally:
        shutil.rmtree(index, ignore_errors=True)
    last, exact = searched[-1]["memory"], searched[-1]["results"][-1]["answers"]
    return {
        "build_seconds": round(built["build_seconds"], 2),
        "build_peak_memory_bytes": built["memory"]["peak"],
        "bytes": built["bytes"],
        "bytes_per_document": round(built["bytes"]["index"] / corpus.facts["documents"], 1),
        "open_ms": round(statistics.median(one["open_seconds"] for one in searched) * 1e3, 3),
        "first_query_ms": round(statistics.median(one["first_query_seconds"] for one in searched) * 1e3, 3),
        "memory_bytes": {
            "before opening": last["before"],
            "after opening": last["opened"],
            "after all queries": last["now"],
            "of them not backed by a file": last["anonymous"],
        },
        "load_average_before": [built["load_average_before"], *(one["load_average_before"] for one in searched)],
        "settings": [
            {
                "knobs": of_rounds[0]["knobs"],
                **percentiles([one["seconds"] for one in of_rounds]),
                "recall@10_of_exhaustive": round(overlap(of_rounds[-1]["answers"], exact), 4),
            }
            for of_rounds in zip(*(one["results"] for one in searched), strict=True)
        ],
    }


def overlap(answers: list[list[str]], exact: list[list[str]]) -> float:
    """Mean share of the documents of the exhaustive ranking over the same codes that the answers hold."""
    return statistics.fmean(len(set(some) & set(best)) / len(best) for some, best in zip(answers, exact, strict=True))


def grow(source: Corpus, work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every size with every number of tokens."""
    rows = []
    for tokens in arguments.tokens:
        for size in sorted(arguments.sizes):
            with tempfile.TemporaryDirectory(prefix="grown-", dir=work) as place:
                corpus = write_grown(Path(place, "corpus"), source, size, tokens=tokens, noise=arguments.noise)
                row = {
                    "documents": size,
                    "synthetic_documents": corpus.facts["synthetic_documents"],
                    "tokens": corpus.facts["tokens"],
                    "tokens_kept_of_a_document": corpus.facts["tokens_kept_of_a_document"],
                }
                foreseen = foreseen_bytes(corpus)
                if foreseen > arguments.disk_gigabytes * 1e9:
                    row["left_out"] = f"needs about {foreseen / 1e9:.0f} GB of disk to build"
                else:
                    row |= measure(corpus, Path(place), arguments)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def token_count(text: str) -> int | None:
    """A number of tokens; None for "all"."""
    if text == "all":
        return None
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", type=Path, required=True, help="folder of encoded corpora")
    parser.add_argument("--work", type=Path, help="where to keep embeddings and, for a while, indexes")
    parser.add_argument("--documents", type=int, help="real documents to start from; all when left out")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--tokens", type=token_count, nargs="+", default=[None, 32], help="kept of a document, or all")
    parser.add_argument("--noise", type=float, default=0.1, help="length of what is added to rows of length 1")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=180, help="minutes one process may take")
    parser.add_argument("--disk-gigabytes", type=float, default=15)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()

    import torch
    from side_by_side.export import export

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.dataset, arguments.split, limit=arguments.queries)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlane-growth-")))
        model = FastLaneModel.from_pretrained()
        source = export(dataset, model, arguments.cache, work, documents=arguments.documents, dense=False)
        del model
        load = os.getloadavg()[0]
        sizes = grow(source, work, arguments)
        report = {
            "environment": environment().as_dict(),
            "load_average_before": load,
            "corpus": source.facts,
            "beyond the real documents": "synthetic: real token rows, moved a little and normalised, ids renamed",
            "k": K,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            "sizes": sizes,
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
