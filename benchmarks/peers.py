"""Our engine and other late-interaction engines: same embeddings, same queries, one query per call.

python benchmarks/install_peers.py --into ~/.cache/fastlane-peers
python benchmarks/peers.py ../shared/data/scifact --cache ~/.cache/fastlane-rag \
    --peers ~/.cache/fastlane-peers/peers.json --json benchmarks/results/peers-scifact.json

The dataset's token embeddings come from the cache of `fastlane eval` (missing ones are encoded) and are given to every
engine as files. Each engine runs in a process and environment of its own, on as many processors as it has threads. One
process builds, others search. In a round every engine opens its index, warms up, and answers all queries once with each
of its settings. Rounds are repeated, each starting with another engine. Times are from the query's embeddings to the
ten best documents, for ours to their texts. Of each query the median of the rounds counts. Quality is computed by the
same code for all. For an engine that is not installed or fails, the results have the reason.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from side_by_side.corpus import Corpus
from side_by_side.engine import ENGINES, K
from side_by_side.judging import compare, named, percentiles, quality
from side_by_side.runs import Runner, WorkerFailed, build_once, rounds, runners, slug

REFERENCE = next(iter(ENGINES))


def measure(corpus: Corpus, names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Build an index and search with every engine.

    Returns:
        `engines`, `settings`, `comparison`, and `missing` with reasons.
    """
    missing: dict[str, str] = {}
    built: dict[str, dict[str, Any]] = {}
    ready: list[Runner] = []
    indexes, timeout = corpus.folder / "indexes", 60 * arguments.timeout

    def failed(name: str, reason: str) -> None:
        missing[name] = reason
        built.pop(name, None)
        print(f"{name}: LEFT OUT: {reason}", flush=True)

    for runner in runners(names, arguments.peers):
        if not isinstance(runner, Runner):
            failed(*runner)
            continue
        try:
            built[runner.name] = build_once(runner, corpus, indexes, arguments.threads, timeout)
            ready.append(runner)
        except WorkerFailed as error:
            failed(runner.name, str(error))
            continue
        facts = built[runner.name]
        print(f"{runner.name}: {facts['build_seconds']:.1f} s, {facts['bytes']['index'] / 1e6:.1f} MB", flush=True)

    def search(runner: Runner) -> dict[str, Any]:
        folder = indexes / slug(runner.name)
        report = runner.run("search", corpus, folder, arguments.threads, timeout)
        print(f"{runner.name}: {sum(sum(one['seconds']) for one in report['results']):.0f} s", flush=True)
        return report

    reports = rounds(ready, search, arguments.repeats, lambda runner, reason: failed(runner.name, reason))
    roles = {runner.name: runner.role for runner in ready}
    engines = {name: _engine(roles[name], built[name], searched, corpus) for name, searched in reports.items()}
    settings = _settings(corpus, reports, roles)
    return {
        "missing": missing,
        "engines": engines,
        "settings": settings,
        "comparison": compare(settings, engines),
    }


def _engine(role: str, built: dict[str, Any], searched: list[dict[str, Any]], corpus: Corpus) -> dict[str, Any]:
    """The figures of an engine that do not depend on its setting."""
    documents, tokens = corpus.facts["documents"], corpus.facts["tokens"]
    return {
        "role": role,
        "versions": built["versions"],
        "build_seconds": round(built["build_seconds"], 3),
        "build_processor_seconds": round(built["build_processor_seconds"], 3),
        "build_seconds_per_million_tokens": round(built["build_seconds"] / tokens * 1e6, 2),
        "build_memory_bytes": built["memory"],
        "bytes": built["bytes"],
        "index_bytes_per_document": round(built["bytes"]["index"] / documents, 1),
        "index_bytes_per_token": round(built["bytes"]["index"] / tokens, 2),
        "open_seconds": [round(one["open_seconds"], 4) for one in searched],
        "first_query_seconds": [round(one["first_query_seconds"], 4) for one in searched],
        "search_memory_bytes": [one["memory"] for one in searched],
        "load_average_before": [built["load_average_before"], *(one["load_average_before"] for one in searched)],
    }


def _settings(corpus: Corpus, reports: Any, roles: dict[str, str]) -> list[dict[str, Any]]:
    """One row per setting: times and quality."""
    queries, qrels = [query.id for query in corpus.queries()], corpus.qrels
    if REFERENCE not in reports:
        raise SystemExit(f"{REFERENCE!r} failed, and all are judged by it")
    exact = named(reports[REFERENCE][0]["results"][0]["answers"], queries, corpus.ids)
    rows = []
    for name, searched in reports.items():
        for of_rounds in zip(*(report["results"] for report in searched), strict=True):
            run = named(of_rounds[0]["answers"], queries, corpus.ids)
            rows.append(
                {
                    "engine": name,
                    "role": roles[name],
                    "knobs": of_rounds[0]["knobs"],
                    **percentiles([one["seconds"] for one in of_rounds]),
                    # Of all threads. Other work on the machine changes it less than the times.
                    "processor_ms": round(min(one["processor_seconds"] for one in of_rounds) * 1e3, 4),
                    **quality(run, qrels, exact),
                    "same_answers_each_round": all(one["answers"] == of_rounds[0]["answers"] for one in of_rounds),
                }
            )
    return rows


def show(results: dict[str, Any]) -> None:
    """Print the table and the ratios."""
    print(f"\n{'engine':24}{'p50 ms':>10}{'p95 ms':>10}{'CPU ms':>10}{'nDCG@10':>10}{'recall':>8}  knobs")
    for row in results["settings"]:
        knobs = " ".join(f"{name}={value}" for name, value in row["knobs"].items()) or "default"
        times = f"{row['p50_ms']:10.2f}{row['p95_ms']:10.2f}{row['processor_ms']:10.2f}"
        print(f"{row['engine']:24}{times}{row['nDCG@10']:10.4f}{row['recall@10_of_exhaustive']:8.3f}  {knobs}")
    print(f"\n{'engine':24}{'build s':>10}{'MB':>10}{'open ms':>10}{'peak MB':>10}")
    for name, facts in results["engines"].items():
        peak = max(one["peak"] for one in facts["search_memory_bytes"]) / 1e6
        size, opening = facts["bytes"]["index"] / 1e6, min(facts["open_seconds"]) * 1e3
        print(f"{name:24}{facts['build_seconds']:10.1f}{size:10.1f}{opening:10.1f}{peak:10.0f}")
    for level in results["comparison"]["at equal nDCG@10"] + results["comparison"]["at equal recall@10 of exhaustive"]:
        told = {
            kind: level[kind] and f"{level[kind]['engine']} {level[kind]['p50_ms']:.2f} ms"
            for kind in ("ours", "peer", "baseline")
        }
        print(f"\n{level['measure']} of {level['at_least']:.4f} or more: {told}")
        print("  " + ", ".join(f"{name} {value}" for name, value in level.items() if name.startswith("ours over")))
    print("\nour default:")
    for name, value in (results["comparison"]["default"] or {}).items():
        print(f"  {name}: {value}")
    for name, reason in results["missing"].items():
        print(f"\nLEFT OUT: {name}: {reason}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cache", type=Path, required=True, help="folder of encoded corpora")
    parser.add_argument("--peers", type=Path, help="peers.json of install_peers.py")
    parser.add_argument("--work", type=Path, help="where to keep embeddings and indexes; built ones are used again")
    parser.add_argument("--documents", type=int, help="a subset: all judged ones, others drawn with a fixed seed")
    parser.add_argument("--queries", type=int, help="at most so many, spread over the split")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads and processors of each engine")
    parser.add_argument("--timeout", type=float, default=120, help="minutes one process may take")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    return arguments


def main() -> None:
    """Measure, print, and write the results."""
    arguments = parse()
    import torch
    from side_by_side.export import export

    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    names = [name for name in ENGINES if name in arguments.engines or name == REFERENCE]
    dataset = load_dataset(arguments.dataset, arguments.split, limit=arguments.queries)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlane-peers-")))
        model = FastLaneModel.from_pretrained()
        dense = any(name.startswith("dense") for name in names)
        corpus = export(dataset, model, arguments.cache, work, documents=arguments.documents, dense=dense)
        del model
        print(corpus.facts, flush=True)
        results = measure(corpus, names, arguments)
        report = {
            "environment": environment().as_dict(),
            "load_average_after": os.getloadavg()[0],
            "corpus": corpus.facts,
            "k": K,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            "order": "one process an engine and round, rounds begin with another engine each; one query a call",
            **results,
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    sys.exit(main())
