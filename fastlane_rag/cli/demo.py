"""`fastlane demo`: real passages, real questions, through LangChain and LlamaIndex, with figures at the end."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.cli.base import console, opened_model, progress
from fastlane_rag.cli.extras import require
from fastlane_rag.cli.search import show_hits, show_route
from fastlane_rag.data import Passage, add_passages, read_passages, sample_path
from fastlane_rag.errors import DataError
from fastlane_rag.search.result import Hit

if TYPE_CHECKING:
    from rich.console import Console

    from fastlane_rag import FastLaneIndex

LANGCHAIN_QUESTIONS = (
    "How do I combine two dictionaries with an operator?",
    "Why would a parameter be accepted by position only?",
    "How long may a line of code be?",
)
LLAMA_INDEX_QUESTIONS = (
    "How can several unrelated exceptions be raised and handled together?",
    "Can each interpreter in a process have a lock of its own?",
)
# These are only timed.
MORE_QUESTIONS = (
    "How do I remove a prefix from a string?",
    "What does the walrus operator do?",
    "How can a list be sorted by a key and stay stable?",
    "Where are virtual environment packages kept?",
    "How does pattern matching compare a value with a class?",
    "Why are type hints not checked at run time?",
    "What is the difference between a generator and a coroutine?",
)
_PASSAGES_SHOWN = 2


@click.command()
@click.option(
    "--corpus",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON Lines file to index instead of the sample of Python Enhancement Proposals.",
)
@click.option("--route-k", type=click.IntRange(min=1), default=4, show_default=True, help="Query tokens routed.")
def demo(corpus: Path | None, route_k: int) -> None:
    """Index real passages and ask questions through LangChain and LlamaIndex, on this machine alone."""
    require("the demo", ["langchain", "llama-index"])
    from fastlane_rag import FastLaneIndex

    passages = list(read_passages(corpus or sample_path()))
    if not passages:
        raise DataError(f"{corpus} holds no passage")
    out = console()
    model = opened_model(None)
    out.rule(f"{len(passages)} passages of {corpus.name if corpus else 'Python Enhancement Proposals'}")
    with (
        tempfile.TemporaryDirectory(prefix="fastlane-demo-") as folder,
        FastLaneIndex.create(Path(folder, "index"), model=model) as index,
    ):
        _fill(index, passages)
        stats = index.stats()
        out.print(f"{stats.documents} passages, {stats.tokens} token vectors, {stats.bytes / 2**20:.0f} MB on disk\n")
        out.rule("LangChain: FastLaneRetriever in a chain")
        out.print(
            "The chat model is a parrot, there to show the wiring: it repeats its prompt. "
            "The passages are what FastLane found.\n",
            style="dim",
        )
        for question in LANGCHAIN_QUESTIONS:
            _ask_langchain(out, index, question, route_k)
        out.rule("LlamaIndex: FastLaneRetriever in a query engine")
        out.print("The language model is a stand-in here as well.\n", style="dim")
        for question in LLAMA_INDEX_QUESTIONS:
            _ask_llama_index(out, index, question, route_k)
        out.rule("What a query costs")
        _show_costs(out, index, [*LANGCHAIN_QUESTIONS, *LLAMA_INDEX_QUESTIONS, *MORE_QUESTIONS], route_k)


def _fill(index: "FastLaneIndex", passages: Sequence[Passage]) -> None:
    with progress("Indexing") as bar:
        add_passages(index, bar.track(passages))


def _ask_langchain(out: "Console", index: "FastLaneIndex", question: str, route_k: int) -> None:
    from langchain_core.documents import Document
    from langchain_core.language_models import ParrotFakeChatModel
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough
    from langchain_fastlane import FastLaneRetriever

    # retriever = vector_store.as_retriever(search_kwargs={"k": 2})                         # a dense retriever
    retriever = FastLaneRetriever(index=index, k=_PASSAGES_SHOWN, route_k=route_k, score_key="score")

    found: list[Document] = []

    def join(documents: list[Document]) -> str:
        found.extend(documents)
        return "\n\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template("Answer from the passages.\n\n{passages}\n\nQuestion: {question}")
    chain: Any = (
        {"passages": retriever | join, "question": RunnablePassthrough()}
        | prompt
        | ParrotFakeChatModel()
        | StrOutputParser()
    )
    answer = chain.invoke(question)
    hits = [
        Hit(str(document.id), document.metadata["score"], document.page_content, document.metadata)
        for document in found
    ]
    _show_answer(out, index, question, route_k, hits, answer)


def _ask_llama_index(out: "Console", index: "FastLaneIndex", question: str, route_k: int) -> None:
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.retrievers.fastlane import FastLaneRetriever

    # retriever = vector_index.as_retriever(similarity_top_k=2)                             # a dense retriever
    retriever = FastLaneRetriever(index=index, similarity_top_k=_PASSAGES_SHOWN, route_k=route_k)
    response = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query(question)
    hits = [
        Hit(one.node.node_id, one.get_score(), one.node.get_content(), one.node.metadata)
        for one in response.source_nodes
    ]
    _show_answer(out, index, question, route_k, hits, str(response))


def _show_answer(
    out: "Console", index: "FastLaneIndex", question: str, route_k: int, hits: Iterable[Hit], answer: str
) -> None:
    out.print(f"Q: {question}", style="bold", markup=False)
    (route,) = index.model.route([question], route_k)
    show_route(out, route.tokens, route.selected)
    show_hits(out, hits)
    out.print(
        f"    [the stand-in model was handed {len(answer.split())} words of passages and question]\n",
        style="dim",
        markup=False,
    )


def _show_costs(out: "Console", index: "FastLaneIndex", questions: Sequence[str], route_k: int) -> None:
    from rich.table import Table

    from fastlane_rag.evaluation.methods import FastLane, Full

    methods = [FastLane(index, route_k=1), FastLane(index, route_k=route_k), Full(index)]
    table = Table("method", box=None, pad_edge=False)
    for column in ("ms a query", "of it encoding", "comparisons a query", "share of full"):
        table.add_column(column, justify="right")
    rows = []
    for method in methods:
        method.answer(questions[0], 10)  # the first call opens files and warms caches
        answers = [method.answer(question, 10) for question in questions]
        rows.append(
            (
                method.name,
                1000 * median(a.encode_seconds + a.search_seconds for a in answers),
                1000 * median(a.encode_seconds for a in answers),
                mean(a.comparisons or 0 for a in answers),
            )
        )
    full = rows[-1][-1]
    for name, total, encoding, comparisons in rows:
        table.add_row(name, f"{total:.1f}", f"{encoding:.1f}", f"{comparisons:,.0f}", f"{comparisons / full:.1%}")
    out.print(table)
    out.print(f"\nmedians over {len(questions)} questions, one at a time; comparisons are means", style="dim")
