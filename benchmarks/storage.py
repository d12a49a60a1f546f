"""The cost of storage: bulk, single and streamed additions, filters, deletions and the space they free, faults.

python benchmarks/storage.py --json benchmarks/results/storage.json

Storage is measured without encoding: a stand-in encoder returns prepared token rows of realistic number and size.
"with the encoder" means the bundled model on real passages. The fault trials are those of tests/index.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from rich.console import Console

DIM = 96
SINGLE = 1000
TESTS = Path(__file__).parents[1] / "tests" / "index"
NOTES = [
    f"Token rows are synthetic, random unit vectors of {DIM} dimensions, 60 to 240 a document, and no time goes into "
    "encoding, in all figures but those that say 'with the encoder': these are the bundled model on real passages.",
    "Faults: after each kill the index is verified, compared with the states allowed, and used; a violation ends "
    "the run without results.",
]


class PreparedModel:
    """Returns random unit rows, 60 to 240 per document, drawn once."""

    name = "prepared"
    fingerprint = "prepared"
    dim = DIM

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        pool = generator.standard_normal((1 << 16, DIM)).astype(np.float32)
        self._pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
        self._generator = generator

    def encode_documents(self, texts: list[str], **_: Any) -> list[np.ndarray]:
        """Rows of a random length from a random place."""
        starts = self._generator.integers(0, len(self._pool) - 240, len(texts))
        lengths = self._generator.integers(60, 241, len(texts))
        return [self._pool[s : s + n] for s, n in zip(starts, lengths, strict=True)]

    def encode_routed(self, texts: list[str], **_: Any) -> list[Any]:
        """Queries of 20 rows, all routable."""
        import torch

        from fastlane_rag.model import RoutedQuery

        rows = [torch.from_numpy(self._pool[i * 50 : i * 50 + 20]) for i in range(len(texts))]
        return [RoutedQuery(row, torch.linspace(1, 2, 20), ["token"] * 20) for row in rows]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def corpus(count: int) -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Texts of about 700 characters, ids and metadata: `group` selects 1 percent, `half` 50."""
    texts = [f"Passage {i}. " + "Some words that a passage of ordinary length has. " * 14 for i in range(count)]
    metadatas = [
        {"group": i % 100, "half": i % 2, "source": f"file{i % 999}.pdf", "page": i % 40} for i in range(count)
    ]
    return texts, [f"doc{i}" for i in range(count)], metadatas


def additions(folder: Path, count: int) -> dict[str, float]:
    """One bulk addition, and single ones."""
    from fastlane_rag import FastLaneIndex

    model, (texts, ids, metadatas) = PreparedModel(), corpus(count)
    results = {}
    with FastLaneIndex.create(folder / "bulk", model=model) as index:
        results["bulk add, documents a second"] = count / timed(lambda: index.add(texts, ids, metadatas))
    with FastLaneIndex.create(folder / "thousand", model=model) as index:
        bulk = timed(lambda: index.add(texts[:SINGLE], ids[:SINGLE], metadatas[:SINGLE]))
    with FastLaneIndex.create(folder / "single", model=model) as index:
        times = [
            timed(lambda i=i: index.add([texts[i]], [ids[i]], [metadatas[i]]))  # type: ignore[misc]
            for i in range(SINGLE)
        ]
        results["segments after 1,000 single adds"] = index.stats().segments
        routed = model.encode_routed(["query"])
        scattered = search_time(index, routed)
        index.compact()
        results["search after 1,000 single adds over compacted"] = scattered / search_time(index, routed)
    results["1,000 documents at once, s"] = bulk
    results["1,000 single adds, s"] = sum(times)
    results["single add, median ms"] = 1000 * statistics.median(times)
    return results


def search_time(index: Any, routed: list[Any], **options: Any) -> float:
    """Median seconds of a search with an encoded query."""

    index.search_batch_detailed(routed, 10, route_k=4, **options)
    return statistics.median(
        timed(lambda: index.search_batch_detailed(routed, 10, route_k=4, **options)) for _ in range(7)
    )


def streaming(folder: Path, count: int) -> dict[str, float]:
    """Ingest the same documents from a generator, and once more when all are stored."""
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.types import Document

    texts, ids, metadatas = corpus(count)
    memory: list[float] = []

    def stream() -> Iterator[Document]:
        for i, document in enumerate(map(Document, ids, texts, metadatas)):
            if i % 256 == 0:
                memory.append(private_memory())
            yield document

    with FastLaneIndex.create(folder / "stream", model=PreparedModel()) as index:
        adding = timed(lambda: index.ingest(stream(), show_progress=False))
        half = len(memory) // 2
        grown = max(memory[half:]) - max(memory[:half])
        again = timed(lambda: index.ingest(stream(), show_progress=False))
    return {
        "ingest from a generator, documents a second": count / adding,
        "ingest, peak memory of the second half over that of the first, MiB": grown,
        "ingest of what is stored already, documents a second": count / again,
    }


def private_memory() -> float:
    """MiB of this process that no file backs; 0 where the system does not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def filters(folder: Path, count: int, filter_keys: tuple[str, ...], codec: str) -> dict[str, float]:
    """Filtered searches compared with an unfiltered one: a filter's first search after a write, and later ones."""
    from fastlane_rag import FastLaneIndex

    model, kind = PreparedModel(), "indexed" if filter_keys else "plain"
    texts, ids, metadatas = corpus(count)
    with FastLaneIndex.create(folder / "index", model=model, filter_keys=filter_keys, codec=codec) as index:
        index.add(texts, ids, metadatas)
        routed = model.encode_routed(["query"])
        unfiltered = search_time(index, routed)
        results = {"unfiltered search, ms": 1000 * unfiltered}
        for name, chosen in (("1%", {"group": 7}), ("50%", {"half": 1})):
            index.update_metadata([ids[0]], [metadatas[0]])  # a commit, which empties the cache of filters
            with index._storage.view() as view:
                state = index._states.of(view.snapshot)
                applied = timed(lambda s=state, v=view, f=chosen: s.allowed(v.reader, f))  # type: ignore[misc]
            results[f"{name} filter on {kind} key, applied for the first time after a write, ms"] = 1000 * applied
            index.update_metadata([ids[0]], [metadatas[0]])
            first = timed(lambda f=chosen: index.search_batch_detailed(routed, 10, route_k=4, filter=f))  # type: ignore[misc]
            later = search_time(index, routed, filter=chosen)
            (result,) = index.search_batch_detailed(routed, 10, route_k=4, filter=chosen)
            field, value = next(iter(chosen.items()))
            if len(result.hits) != 10 or any(hit.metadata[field] != value for hit in result.hits):
                raise AssertionError(f"the filter {chosen} gave {result.hits}")
            results[f"{name} filter on {kind} key over unfiltered, first"] = first / unfiltered
            results[f"{name} filter on {kind} key over unfiltered, later"] = later / unfiltered
        return results


def space(folder: Path, count: int) -> dict[str, float]:
    """Bytes before and after deleting half and compacting; time to open."""
    from fastlane_rag import FastLaneIndex

    path = folder / "space"
    texts, ids, metadatas = corpus(count)
    with FastLaneIndex.create(path, model=PreparedModel()) as index:
        index.add(texts, ids, metadatas)
        index.compact()
        full = size(path)
        deleting = timed(lambda: index.delete(filter={"half": 1}))
        deleted = size(path)
        compacting = timed(index.compact)
        compacted = size(path)
    opening = timed(lambda: FastLaneIndex.open(path).close())
    return {
        "bytes a document": full / count,
        "deleting half, s": deleting,
        "bytes after deleting half over before": deleted / full,
        "compacting, s": compacting,
        "bytes after compacting over before": compacted / full,
        "opening, ms": 1000 * opening,
    }


def size(path: Path) -> int:
    """Bytes of all files under a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def ingestion(folder: Path, count: int) -> dict[str, float]:
    """Add real passages with the bundled encoder; the share of time that is not encoding."""
    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.data import read_passages, sample_path

    model = FastLaneModel.from_pretrained()
    texts = [passage.content for passage in read_passages(sample_path())][:count]
    ids = [str(i) for i in range(len(texts))]
    model.encode_documents(texts[:32])
    encoding = timed(lambda: model.encode_documents(texts))
    with FastLaneIndex.create(folder / "ingestion", model=model) as index:
        adding = timed(lambda: index.add(texts, ids, show_progress=False))
        again = timed(lambda: index.add(texts, ids, show_progress=False))
        tokens = index.stats().tokens
    return {
        "with the encoder, documents a second": len(texts) / adding,
        "with the encoder, tokens a second": tokens / adding,
        "adding over encoding alone": adding / encoding,
        "adding the same again, documents a second": len(texts) / again,
    }


def faults(folder: Path, kills: int) -> dict[str, float]:
    """Fault trials: kill -9 at random instants of writes; damaged files, full disks, forged directories."""
    sys.path[:0] = [str(TESTS)]
    import test_crashes

    seed = int(time.time())
    writes = between = 0
    for codec in ("fp16", "residual8"):
        worker = subprocess.Popen(
            [sys.executable, str(test_crashes.WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        with worker:
            found = test_crashes.run_trials(worker, folder / codec, trials=kills // 2, seed=seed, codec=codec)
            assert worker.stdin is not None
            worker.stdin.close()
        writes, between = writes + found[0], between + found[1]
    report = folder / "damage.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-m", ""]
    files = [str(TESTS / name) for name in ("test_damage.py", "test_malice.py")]
    done = subprocess.run([*command, *files], cwd=TESTS.parents[1], stdout=subprocess.DEVNULL)
    suite = next(ElementTree.parse(report).iter("testsuite"))
    if done.returncode:
        raise AssertionError(f"{suite.get('failures')} tests of damage failed")
    return {
        "faults: kills at random instants, half of them of an index in code": kills // 2 * 2,
        "faults: seed": seed,
        "faults: writes that these processes completed": writes,
        "faults: kills between a commit and its return": between,
        "faults: kills after which the index was wrong": 0,
        "faults: tests of damage, full disks and forgery passed": int(suite.get("tests") or 0),
        "faults: ... failed": 0,
    }


def main() -> None:
    """Measure and print."""
    from fastlane_rag.evaluation.environment import environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000, help="in the synthetic corpus")
    parser.add_argument("--filter-documents", type=int, default=100_000, help="in the one that is filtered")
    parser.add_argument("--filter-codec", default="auto", help="of the index that is filtered")
    parser.add_argument("--passages", type=int, default=500, help="real ones, through the encoder")
    parser.add_argument("--kills", type=int, default=200, help="processes killed while they write")
    parser.add_argument("--only", default="", help="parts to run, separated by commas; all when left out")
    parser.add_argument("--note", action="append", default=[], help="something to say in the results")
    parser.add_argument("--json", type=Path, help="where to write the results; parts that are not run are kept")
    arguments = parser.parse_args()
    count, filtered, codec = arguments.documents, arguments.filter_documents, arguments.filter_codec
    parts: dict[str, tuple[str, Callable[[Path], dict[str, float]]]] = {
        "additions": (f"{count:,} synthetic documents", lambda folder: additions(folder, count)),
        "streaming": (f"{count:,} synthetic documents", lambda folder: streaming(folder, count)),
        "filters": (
            f"{filtered:,} synthetic documents",
            lambda folder: filters(folder, filtered, (), codec),
        ),
        "indexed-filters": (
            f"{filtered:,} synthetic documents",
            lambda folder: filters(folder, filtered, ("group", "half"), codec),
        ),
        "space": (f"{count:,} synthetic documents", lambda folder: space(folder, count)),
        "ingestion": (f"{arguments.passages} real passages", lambda folder: ingestion(folder, arguments.passages)),
        "faults": ("the stand-in encoder of tests/index", lambda folder: faults(folder, arguments.kills)),
    }
    chosen = arguments.only.split(",") if arguments.only else list(parts)
    known = arguments.json and arguments.json.is_file()
    record = json.loads(arguments.json.read_text())["parts"] if known else {}
    console = Console(highlight=False)
    for name in chosen:
        data, measure = parts[name]
        folder = Path(tempfile.mkdtemp(prefix="fastlane-storage-"))
        load = os.getloadavg()[0]
        try:
            results = measure(folder)
        finally:
            shutil.rmtree(folder)
        for label, value in results.items():
            console.print(f"{label:75s} {value:12,.2f}", soft_wrap=True)
        loads = [round(load, 2), round(os.getloadavg()[0], 2)]
        record[f"{name}, codec {codec}" if name.endswith("filters") else name] = {
            "data": data,
            "notes": arguments.note,
            "1-minute load average before and after": loads,
            "environment": environment().as_dict(),
            "results": results,
        }
        if arguments.json:
            arguments.json.write_text(json.dumps({"notes": NOTES, "parts": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
