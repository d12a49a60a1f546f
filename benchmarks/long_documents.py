"""Documents longer than the model's window: encoded window by window, cut, and divided by the frameworks' splitters.

python benchmarks/long_documents.py ../shared/data/squad_dev --passages 1000 --queries 200 \
    --json benchmarks/results/long_documents.json

Passages, in an order drawn once, are joined until a document has 2,000 or 10,000 tokens. The document that holds the
judged passage is the one to find. A document divided into chunks ranks by its best chunk. Seconds are those of the
processor in one thread, so that a busy machine changes little.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from langchain_text_splitters import RecursiveCharacterTextSplitter
from llama_index.core.node_parser import SentenceSplitter
from rich.console import Console

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.data import read_passages
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.evaluation.environment import environment
from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.model import windows

Split = Callable[[str], list[str]]
WINDOWS, CUT = "windows of 256 tokens (default)", "cut at 512 tokens"
_DEPTH = 100  # chunks fetched a query, of which the best of each document counts


def windows_of(tokens: int) -> str:
    """What a way with windows of another length than the default's is called."""
    return f"windows of {tokens} tokens"


def joined(folder: Path, passages: int, tokens: int, model: FastLaneModel) -> tuple[list[str], dict[str, int]]:
    """Documents of about so many tokens, and the document of each passage by the passage's id."""
    chosen = list(read_passages(folder / "corpus.jsonl.gz"))
    random.Random(0).shuffle(chosen)
    documents: list[list[str]] = [[]]
    length, places = 0, {}
    for passage in chosen[:passages]:
        if length >= tokens:
            documents.append([])
            length = 0
        documents[-1].append(passage.content)
        length += len(model.encoder.tokenizer(passage.content, truncation=False)["input_ids"])
        places[passage.id] = len(documents) - 1
    return ["\n\n".join(parts) for parts in documents], places


def measure(model: FastLaneModel, texts: list[str], split: Split | None, asked: dict[str, str], gold: Any) -> Any:
    """One way to index the documents: what it finds, takes and costs."""
    chunks = [(n, chunk) for n, text in enumerate(texts) for chunk in (split(text) if split else [text])]
    with tempfile.TemporaryDirectory() as folder:
        index = FastLaneIndex.create(Path(folder, "index"), model=model, codec="fp16")
        started = time.process_time()
        index.add([chunk for _, chunk in chunks], ids=[str(i) for i in range(len(chunks))], show_progress=False)
        seconds = time.process_time() - started
        run: dict[str, list[str]] = {}
        spent = 0.0
        for name, query in asked.items():
            started = time.process_time()
            hits = index.search(query, k=_DEPTH if split else 10)
            spent += time.process_time() - started
            run[name] = list(dict.fromkeys(str(chunks[int(hit.id)][0]) for hit in hits))
        stats = index.stats()
        index.close()
    metrics = mean_scores(score_run(gold, run))
    return {
        "entries": len(chunks),
        "tokens": stats.tokens,
        "bytes": stats.bytes,
        "seconds_to_add": round(seconds, 1),
        "ms_a_query": round(1000 * spent / len(asked), 2),
        "first": round(sum(found[0] in gold[name] for name, found in run.items()) / len(run), 4),
        **{name: round(metrics[name], 4) for name in ("nDCG@10", "R@10")},
    }


def main() -> None:
    """Measure and write the results after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = FastLaneModel.from_pretrained()
    recursive = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200).split_text
    ways: dict[str, tuple[FastLaneModel, Split | None]] = {
        CUT: (model.bounded(512), None),
        WINDOWS: (model, None),
        **{windows_of(length): (model, None) for length in (512, 128)},
        "LangChain's RecursiveCharacterTextSplitter, 1,000 characters": (model, recursive),
        "LlamaIndex's SentenceSplitter, as it comes": (model, SentenceSplitter().split_text),
    }
    dataset = load_dataset(arguments.dataset, "all")
    record: dict[str, Any] = {"environment": environment().as_dict(), "dataset": dataset.name}
    record |= {"passages": arguments.passages, "sizes": []}
    for size in arguments.sizes:
        texts, places = joined(arguments.dataset, arguments.passages, size, model)
        judged = {q: {str(places[d]): 1 for d in found if d in places} for q, found in dataset.qrels.items()}
        names = sorted(name for name, found in judged.items() if found)
        asked = {name: dataset.queries[name] for name in random.Random(1).sample(names, arguments.queries)}
        entry: dict[str, Any] = {"tokens": size, "documents": len(texts), "queries": len(asked), "ways": {}}
        record["sizes"].append(entry)
        for way, (encoder, split) in ways.items():
            windows.SHARE = next((512 // n for n in (512, 128) if way == windows_of(n)), 2)
            entry["ways"][way] = measure(encoder, texts, split, asked, {name: judged[name] for name in asked})
            Console().print(size, way, entry["ways"][way])
            if arguments.json:
                arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
