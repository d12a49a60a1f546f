"""The overhead of the LangChain and LlamaIndex adapters over the engine, and what batched calls save.

python benchmarks/adapters.py --json benchmarks/results/adapters.json

Overhead is measured with an engine that returns prepared results at once. What remains is the adapter's own work:
callbacks, events, arguments, building documents or nodes. Batched calls are real searches of real questions, and must
find what the same calls find one after another.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

QUESTIONS = Path(__file__).parents[1] / "examples" / "pep_questions.jsonl"
K = 10
AT_ONCE = 16
BATCH = 100
RERANKED = 50
LEAST_SAME = 0.98


@dataclass(frozen=True)
class Corpus:
    """Indexes of the packaged PEP passages, one for each framework.

    Attributes:
        plain: an index of documents.
        of_nodes: an index of LlamaIndex nodes.
        questions: BATCH labelled questions about the passages, some repeated.
        build_s: seconds to build both indexes.
    """

    plain: Any
    of_nodes: Any
    questions: list[str]
    build_s: float


def build(passages: int | None) -> Corpus:
    """Index the first passages, or all."""
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.fastlane import FastLaneRetriever

    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.data import read_passages, sample_path

    model = FastLaneModel.from_pretrained()
    chosen = list(read_passages(sample_path()))[:passages]
    started = time.perf_counter()
    plain = FastLaneIndex.create(model=model)
    metadatas = [{"title": passage.title, **passage.metadata} for passage in chosen]
    plain.add([passage.text for passage in chosen], [passage.id for passage in chosen], metadatas)
    nodes = [
        TextNode(id_=passage.id, text=passage.text, metadata=metadata)
        for passage, metadata in zip(chosen, metadatas, strict=True)
    ]
    of_nodes = FastLaneRetriever.from_nodes(nodes, model=model).index
    asked = [json.loads(line)["question"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    return Corpus(plain, of_nodes, (asked * BATCH)[:BATCH], time.perf_counter() - started)


@contextmanager
def instant(index: Any, query: str) -> Iterator[None]:
    """Make an index answer every search at once, with new copies of hits found before."""
    hits = index.search(query, K)

    def copies() -> list[Any]:
        return [replace(hit, metadata=dict(hit.metadata)) for hit in hits]

    index.search = lambda *_, **__: copies()
    index.search_batch = lambda queries, *_, **__: [copies() for _ in queries]
    try:
        yield
    finally:
        del index.search, index.search_batch


@contextmanager
def instant_rerank(query: str, texts: list[str], model: Any) -> Iterator[Callable[[], Any]]:
    """Make both rerankers return a ranking made before; yields the function that returns it."""
    from fastlane_rag.rerank import rerank

    ranking = rerank(query, texts, model=model)
    with ExitStack() as stack:
        for module in ("langchain_fastlane.rerankers", "llama_index.retrievers.fastlane.rerank"):
            stack.enter_context(patch(f"{module}.rerank", lambda *_, **__: list(ranking)))
        yield lambda: list(ranking)


def median_ms(call: Callable[[], Any], bare: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of a call minus those of the bare engine, measured alternately."""
    call()
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, work in zip(took, (call, bare), strict=True):
            started = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(took[0]) - statistics.median(took[1])


def overheads(corpus: Corpus, run: Callable[[Any], Any], repeats: int) -> dict[str, float]:
    """Milliseconds that each adapter adds to a search for K hits, or to ranking RERANKED texts."""
    from langchain_fastlane import FastLaneReranker
    from langchain_fastlane import FastLaneRetriever as LangChainRetriever
    from langchain_fastlane import FastLaneVectorStore as LangChainStore
    from llama_index.core.schema import NodeWithScore, QueryBundle
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneRetriever, FastLaneVectorStore

    query = corpus.questions[0]
    langchain = LangChainRetriever(index=corpus.plain, k=K)
    store = LangChainStore(corpus.plain)
    store_retriever = store.as_retriever(search_kwargs={"k": K})
    llama_index = FastLaneRetriever(corpus.of_nodes, similarity_top_k=K)
    node_store = FastLaneVectorStore(corpus.of_nodes)
    asked = VectorStoreQuery(query_str=query, similarity_top_k=K)
    searches: dict[str, tuple[Any, Callable[[], Any]]] = {
        "LangChain FastLaneRetriever.invoke": (corpus.plain, lambda: langchain.invoke(query)),
        "LangChain FastLaneRetriever.ainvoke": (corpus.plain, lambda: run(langchain.ainvoke(query))),
        "LangChain FastLaneVectorStore.similarity_search": (corpus.plain, lambda: store.similarity_search(query, K)),
        "LangChain FastLaneVectorStore.as_retriever().invoke": (corpus.plain, lambda: store_retriever.invoke(query)),
        "LlamaIndex FastLaneRetriever.retrieve": (corpus.of_nodes, lambda: llama_index.retrieve(query)),
        "LlamaIndex FastLaneRetriever.aretrieve": (corpus.of_nodes, lambda: run(llama_index.aretrieve(query))),
        "LlamaIndex FastLaneVectorStore.query": (corpus.of_nodes, lambda: node_store.query(asked)),
    }
    added = {}
    for name, (index, call) in searches.items():
        with instant(index, query):
            added[name] = median_ms(call, lambda: index.search(query), repeats)  # noqa: B023

    documents = store.similarity_search(query, RERANKED)
    nodes = [
        NodeWithScore(node=node, score=0.0)
        for node in node_store.query(VectorStoreQuery(query_str=query, similarity_top_k=RERANKED)).nodes or []
    ]
    reranker, postprocessor = FastLaneReranker(model=corpus.plain.model), FastLaneRerank(corpus.plain.model)
    bundle = QueryBundle(query)
    texts = [document.page_content for document in documents]
    with instant_rerank(query, texts, corpus.plain.model) as bare:
        calls: dict[str, Callable[[], Any]] = {
            "LangChain FastLaneReranker.compress_documents": lambda: reranker.compress_documents(documents, query),
            "LlamaIndex FastLaneRerank.postprocess_nodes": lambda: postprocessor.postprocess_nodes(nodes, bundle),
        }
        for name, call in calls.items():
            added[name] = median_ms(call, bare, repeats)
    return added


def together(corpus: Corpus, run: Callable[[Any], Any], rounds: int) -> list[dict[str, Any]]:
    """The same searches one after another and together: median seconds of each, measured alternately."""
    from langchain_fastlane import FastLaneRetriever as LangChainRetriever
    from llama_index.retrievers.fastlane import FastLaneRetriever

    langchain = LangChainRetriever(index=corpus.plain, k=K)
    llama_index = FastLaneRetriever(corpus.of_nodes, similarity_top_k=K)
    questions, few = corpus.questions, corpus.questions[:AT_ONCE]

    async def at_once(call: Callable[[str], Any]) -> list[Any]:
        return await asyncio.gather(*(call(question) for question in few))

    async def in_turn(call: Callable[[str], Any]) -> list[Any]:
        return [await call(question) for question in few]

    pairs: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
        "LangChain ainvoke, at once": (
            AT_ONCE,
            lambda: run(in_turn(langchain.ainvoke)),
            lambda: run(at_once(langchain.ainvoke)),
        ),
        "LlamaIndex aretrieve, at once": (
            AT_ONCE,
            lambda: run(in_turn(llama_index.aretrieve)),
            lambda: run(at_once(llama_index.aretrieve)),
        ),
        "LangChain batch": (
            BATCH,
            lambda: [langchain.invoke(question) for question in questions],
            lambda: langchain.batch(questions),
        ),
        "index.search_batch": (
            BATCH,
            lambda: [corpus.plain.search(question, K) for question in questions],
            lambda: corpus.plain.search_batch(questions, K),
        ),
    }
    measured = []
    for name, (count, single, joint) in pairs.items():
        # A batch is padded, which in bfloat16 changes scores by thousandths, so near ties may swap.
        same = overlap(single(), joint())
        if same < LEAST_SAME:
            raise AssertionError(f"{name}: of what is found one after another only {same:.1%} is found together")
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for took, work in zip(times, (single, joint), strict=True):
                started = time.perf_counter()
                work()
                took.append(time.perf_counter() - started)
        sequential_s, together_s = map(statistics.median, times)
        measured.append(
            {"calls": name, "count": count, "sequential_s": sequential_s, "together_s": together_s, "same": same}
        )
    return measured


def overlap(some: list[list[Any]], others: list[list[Any]]) -> float:
    """Share of the results of some searches that the other searches found too, for any framework."""

    def ids(found: list[Any]) -> set[str]:
        return {getattr(one, "node_id", None) or one.id for one in found}

    return statistics.fmean(len(ids(a) & ids(b)) / max(len(a), len(b)) for a, b in zip(some, others, strict=True))


def main() -> None:
    """Measure, print two tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, help="how many of the packaged passages to index; all by default")
    parser.add_argument("--repeats", type=int, default=500, help="calls that the median of an overhead is taken of")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the medians of calls together are taken of")
    parser.add_argument("--threads", type=int, default=1, help="torch threads for one search")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()

    import torch

    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    corpus = build(arguments.passages)
    with asyncio.Runner() as runner:  # one event loop, as in a server, so that its threads are kept
        added = overheads(corpus, runner.run, arguments.repeats)
        calls = together(corpus, runner.run, arguments.rounds)

    console = Console()
    table = Table("adapter", "ms above the engine", title=f"{K} hits, or {RERANKED} texts reranked")
    for name, value in added.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    table = Table("calls", "number", "one after another, s", "together, s", "times as fast")
    for one in calls:
        sequential_s, together_s = one["sequential_s"], one["together_s"]
        factor = f"{sequential_s / together_s:.1f}"
        table.add_row(one["calls"], str(one["count"]), f"{sequential_s:.3f}", f"{together_s:.3f}", factor)
    console.print(table)
    if arguments.json:
        result = {
            "environment": environment().as_dict(),
            "model": {"name": corpus.plain.model.name, "fingerprint": corpus.plain.model.fingerprint},
            "passages": len(corpus.plain),
            "k": K,
            "reranked": RERANKED,
            "build_s": corpus.build_s,
            "overhead_ms": added,
            "together": calls,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
