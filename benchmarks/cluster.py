"""Measures searches of a cluster with 1, 2 and 4 shards, on Ray nodes of this machine.

python benchmarks/cluster.py --json benchmarks/results/cluster.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray lets other work of the machine go first, which here would measure the other work.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.cluster_utils import Cluster

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.cli.demo import LANGCHAIN_QUESTIONS, LLAMA_INDEX_QUESTIONS, MORE_QUESTIONS
from fastlane_rag.cluster import ClusterIndex
from fastlane_rag.data import document_of, read_passages, sample_path

QUESTIONS = [*LANGCHAIN_QUESTIONS, *LLAMA_INDEX_QUESTIONS, *MORE_QUESTIONS]
WAYS: dict[str, dict[str, Any]] = {"routed": {}, "hybrid": {"hybrid": True}, "words": {"lane": "words"}}
MEMORY = 80 << 20


def processor() -> str:
    """Its name, from /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def timed(index: Any, queries: list[Any], clients: int, seconds: float, options: dict[str, Any]) -> dict[str, float]:
    """Queries a second and milliseconds of one query, of clients that ask one encoded query after another."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def ask(first: int) -> None:
        turn = first
        while time.perf_counter() < end:
            start, turn = time.perf_counter(), turn + 1
            chosen = turn % len(queries)
            index.search_batch_detailed([queries[chosen]], 10, texts=[QUESTIONS[chosen]], **options)
            taken.append(1000 * (time.perf_counter() - start))

    threads = [threading.Thread(target=ask, args=(one,)) for one in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    return {
        "queries_per_second": round(len(taken) / seconds, 1),
        "p50_ms": round(statistics.median(taken), 1),
        "p95_ms": round(taken[int(0.95 * (len(taken) - 1))], 1),
    }


def measured(index: Any, queries: list[Any], seconds: float) -> dict[str, Any]:
    """Each way to search, with one client and with four."""
    for options in WAYS.values():
        index.search_batch_detailed(queries, 10, texts=QUESTIONS, **options)
    return {
        way: {f"{clients} clients": timed(index, queries, clients, seconds, options) for clients in (1, 4)}
        for way, options in WAYS.items()
    }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    told = parser.parse_args()
    documents = [document_of(one) for one in read_passages(sample_path())][: told.passages]
    model = FastLaneModel.from_pretrained()
    queries = list(model.encode_routed(QUESTIONS))
    result: dict[str, Any] = {
        "command": "python benchmarks/cluster.py",
        "processor": processor(),
        "note": "2 cores shared with other work; Ray nodes are processes of one machine; queries are encoded before",
        "passages": len(documents),
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="fastlane-cluster-") as folder:
        start = time.perf_counter()
        with FastLaneIndex.create(Path(folder, "one"), model=model, codec="fp16") as one:
            one.ingest(documents)
            result["encoding_seconds"] = round(time.perf_counter() - start, 1)
            result["one index"] = measured(one, queries, told.seconds)
            ids, texts = one.ids(), {document.id: document for document in documents}
            rows = one.embeddings(ids)
            nodes = Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False},
            )
            for _ in range(2):
                nodes.add_node(num_cpus=4, object_store_memory=MEMORY)
            ray.init(address=nodes.address, namespace="fastlane", log_to_driver=False)
            for shards in (1, 2, 4):
                path = Path(folder, f"shards-{shards}")
                with ClusterIndex.create(path, shards, cpus=0.1, model=model, codec="fp16") as cluster:
                    start = time.perf_counter()
                    for first in range(0, len(ids), 200):
                        some = ids[first : first + 200]
                        cluster.add_embeddings(
                            rows[first : first + 200],
                            some,
                            [texts[id_].text for id_ in some],
                            [texts[id_].metadata for id_ in some],
                        )
                    stored = time.perf_counter() - start
                    result[f"{shards} shards"] = {
                        "writing_seconds": round(stored, 1),
                        **measured(cluster, queries, told.seconds),
                    }
                    if shards == 2:
                        start = time.perf_counter()
                        cluster.add_shard()
                        moved = cluster.shard_stats()[2].documents
                        result["adding a third shard"] = {
                            "documents_moved": moved,
                            "share": round(moved / len(ids), 3),
                            "seconds": round(time.perf_counter() - start, 1),
                        }
                    cluster.stop()
                shutil.rmtree(path)
            ray.shutdown()
            nodes.shutdown()
    result["load_after"] = os.getloadavg()[0]
    text = json.dumps(result, indent=2)
    print(text)
    if told.json:
        told.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
