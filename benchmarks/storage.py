"""What storing costs: bulk and single additions, filters, deletions and the space they give back, opening.

python benchmarks/storage.py --json benchmarks/results/storage.json

Encoding is left out where storage is measured: a stand-in encoder hands over prepared token rows of realistic number
and size. "with the encoder" is the bundled model on real passages.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

DIM = 96
SINGLE = 1000


class PreparedModel:
    """Hands over random unit rows, 60 to 240 a document, drawn once."""

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
    from fastlane_rag.search import search_many

    search_many(index, routed, 10, route_k=4, **options)
    return statistics.median(timed(lambda: search_many(index, routed, 10, route_k=4, **options)) for _ in range(7))


def filters(folder: Path, count: int, filter_keys: tuple[str, ...]) -> dict[str, float]:
    """Filtered searches against the unfiltered one; a filter's first search after a write, and later ones."""
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.search import search_many

    model, kind = PreparedModel(), "indexed" if filter_keys else "plain"
    texts, ids, metadatas = corpus(count)
    with FastLaneIndex.create(folder / f"filters-{kind}", model=model, filter_keys=filter_keys) as index:
        index.add(texts, ids, metadatas)
        routed = model.encode_routed(["query"])
        unfiltered = search_time(index, routed)
        results = {"unfiltered search, ms": 1000 * unfiltered}
        for name, chosen in (("1%", {"group": 7}), ("50%", {"half": 1})):
            index.update_metadata([ids[0]], [metadatas[0]])  # a commit: nothing is remembered
            first = timed(lambda f=chosen: search_many(index, routed, 10, route_k=4, filter=f))  # type: ignore[misc]
            later = search_time(index, routed, filter=chosen)
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
    """Real passages through the bundled encoder, and the share of the time that is not encoding."""
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


def main() -> None:
    """Measure and print."""
    from fastlane_rag.evaluation.environment import environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000, help="in the synthetic corpus")
    parser.add_argument("--passages", type=int, default=500, help="real ones, through the encoder")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fastlane-storage-"))
    try:
        results = additions(folder, arguments.documents)
        results |= filters(folder, arguments.documents, ())
        results |= filters(folder, arguments.documents, ("group", "half"))
        results |= space(folder, arguments.documents)
        results |= ingestion(folder, arguments.passages)
    finally:
        shutil.rmtree(folder)
    console = Console(highlight=False)
    for name, value in results.items():
        console.print(f"{name:55s} {value:12,.2f}")
    if arguments.json:
        record = {"environment": environment().as_dict(), "documents": arguments.documents, "results": results}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
