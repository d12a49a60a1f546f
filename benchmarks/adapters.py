"""What the LangChain and LlamaIndex adapters cost above the index they stand on.

python benchmarks/adapters.py --json benchmarks/results/adapters.json

Overhead is measured with a search that returns prepared hits at once, so that only the adapter's own work is left:
callbacks, arguments, building documents or nodes. Concurrency and batching are measured on real searches.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

QUERIES = [
    "how do I add an enumeration type?",
    "operator for matrix multiplication",
    "why was the walrus operator added?",
    "what does a context manager do on errors?",
    "merge two dictionaries",
    "remove a prefix from a string",
    "where should imports be placed?",
    "generators that delegate to other generators",
]
K = 10


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time of one call."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def build(passages: int) -> tuple[Any, Any]:
    """An index of plain documents and one of LlamaIndex nodes, over the packaged PEP passages."""
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.fastlane import FastLaneRetriever

    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.data import read_passages, sample_path

    model = FastLaneModel.from_pretrained()
    chosen = list(read_passages(sample_path()))[:passages]
    plain = FastLaneIndex.create(model=model)
    metadatas = [{"title": passage.title, **passage.metadata} for passage in chosen]
    plain.add([passage.text for passage in chosen], [passage.id for passage in chosen], metadatas)
    nodes = [
        TextNode(id_=passage.id, text=passage.text, metadata=metadata)
        for passage, metadata in zip(chosen, metadatas, strict=True)
    ]
    return plain, FastLaneRetriever.from_nodes(nodes, model=model).index


class Instant:
    """Makes an index answer every search at once, with fresh copies of hits found beforehand."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.hits = index.search(QUERIES[0], K)
        self.ids = [hit.id for hit in self.hits]

    def _copies(self) -> list[Any]:
        return [replace(hit, metadata=dict(hit.metadata)) for hit in self.hits]

    def __enter__(self) -> "Instant":
        self.index.search = lambda *_, **__: self._copies()
        self.index.search_batch = lambda queries, *_, **__: [self._copies() for _ in queries]
        return self

    def __exit__(self, *_: object) -> None:
        del self.index.search, self.index.search_batch


def overheads(plain: Any, of_nodes: Any, repeats: int) -> dict[str, float]:
    """Milliseconds each adapter adds to a search that returns K hits."""
    from langchain_fastlane import FastLaneRetriever as LangChainRetriever
    from langchain_fastlane import FastLaneVectorStore as LangChainStore
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.retrievers.fastlane import FastLaneRetriever, FastLaneVectorStore

    query = QUERIES[0]
    langchain = LangChainRetriever(index=plain, k=K)
    store = LangChainStore(plain)
    llama_index = FastLaneRetriever(of_nodes, similarity_top_k=K)
    node_store = FastLaneVectorStore(of_nodes)
    loop = asyncio.new_event_loop()
    try:
        calls: dict[str, tuple[Any, Callable[[], Any]]] = {
            "LangChain retriever, invoke": (plain, lambda: langchain.invoke(query)),
            "LangChain retriever, ainvoke": (plain, lambda: loop.run_until_complete(langchain.ainvoke(query))),
            "LangChain store, similarity_search": (plain, lambda: store.similarity_search(query, K)),
            "LangChain store, as_retriever().invoke": (plain, lambda: store.as_retriever().invoke(query)),
            "LlamaIndex retriever, retrieve": (of_nodes, lambda: llama_index.retrieve(query)),
            "LlamaIndex retriever, aretrieve": (
                of_nodes,
                lambda: loop.run_until_complete(llama_index.aretrieve(query)),
            ),
            "LlamaIndex store, query": (
                of_nodes,
                lambda: node_store.query(VectorStoreQuery(query_str=query, similarity_top_k=K)),
            ),
        }
        results = {}
        for name, (index, call) in calls.items():
            with Instant(index):
                results[name] = milliseconds(call, repeats) - milliseconds(lambda: index.search(query), repeats)  # noqa: B023
        return results
    finally:
        loop.close()


def throughput(plain: Any, of_nodes: Any) -> dict[str, float]:
    """Seconds for the same searches one after another, at once, and as a batch."""
    from langchain_fastlane import FastLaneRetriever as LangChainRetriever
    from llama_index.retrievers.fastlane import FastLaneRetriever

    langchain = LangChainRetriever(index=plain, k=K)
    llama_index = FastLaneRetriever(of_nodes, similarity_top_k=K)
    hundred = [f"{QUERIES[i % len(QUERIES)]} {i}" for i in range(100)]

    async def at_once(call: Callable[[str], Coroutine[Any, Any, Any]]) -> None:
        await asyncio.gather(*(call(query) for query in hundred[:16]))

    async def in_turn(call: Callable[[str], Coroutine[Any, Any, Any]]) -> None:
        for query in hundred[:16]:
            await call(query)

    work: dict[str, Callable[[], Any]] = {
        "LangChain, 16 ainvoke in turn": lambda: asyncio.run(in_turn(langchain.ainvoke)),
        "LangChain, 16 ainvoke at once": lambda: asyncio.run(at_once(langchain.ainvoke)),
        "LlamaIndex, 16 aretrieve in turn": lambda: asyncio.run(in_turn(llama_index.aretrieve)),
        "LlamaIndex, 16 aretrieve at once": lambda: asyncio.run(at_once(llama_index.aretrieve)),
        "LangChain, 100 invoke": lambda: [langchain.invoke(query) for query in hundred],
        "LangChain, batch of 100": lambda: langchain.batch(hundred),
        "index, 100 search": lambda: [plain.search(query, K) for query in hundred],
        "index, search_batch of 100": lambda: plain.search_batch(hundred, K),
    }
    return {name: milliseconds(call, 3) / 1000 for name, call in work.items()}


def main() -> None:
    """Measure, print two tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=500, help="how many of the packaged passages to index")
    parser.add_argument("--repeats", type=int, default=300, help="calls a median is taken of")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()

    import torch

    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    plain, of_nodes = build(arguments.passages)
    search = milliseconds(lambda: plain.search(QUERIES[0], K), 20)
    added = overheads(plain, of_nodes, arguments.repeats)
    seconds = throughput(plain, of_nodes)

    console = Console()
    table = Table("adapter", "ms above the index", title=f"{K} hits; a search itself takes {search:.1f} ms")
    for name, value in added.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    table = Table("searches", "seconds")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    if arguments.json:
        result = {
            "environment": environment().as_dict(),
            "passages": arguments.passages,
            "k": K,
            "search_ms": search,
            "overhead_ms": added,
            "seconds": seconds,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
