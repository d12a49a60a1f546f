"""Quality with cut passages, short and long queries, and misspelt words."""

import gzip
import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduction import plots
from reproduction.run import SEED, Run, progress

if TYPE_CHECKING:
    from fastlane_rag.evaluation.dataset import Dataset

DATASETS = ("scifact", "fairytaleqa")
LONG_QUERIES = ("squad_dev", "fairytaleqa")
CUTS = (64, 128, 256, 512)
LENGTHS = (3, 10, 30, 100)
TYPOS = (0.0, 0.1, 0.2, 0.4)
METHODS = ("dense", "bm25", "full", "fastlane")
ROUTE_KS = (1, 4, 16)
QUERIES = 300
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def run(run: Run, datasets: tuple[str, ...] = DATASETS) -> None:
    """Measure, then draw."""
    results = run.results("robustness")
    for name in datasets:
        for cut in CUTS:
            step(results, f"{name}, passages of {cut} tokens", cut_passages, run, name, cut)
        for share in TYPOS:
            step(results, f"{name}, {share:.0%} of words misspelt", misspelt, run, name, share)
    for name in LONG_QUERIES if datasets == DATASETS else datasets:
        for length in LENGTHS:
            step(results, f"{name}, queries of {length} tokens", query_length, run, name, length)
    plots.robustness(results.steps, run.out)


def step(results: Any, label: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """One row."""
    results.step(label, lambda: measure(*arguments))


def cut_passages(run: Run, name: str, cut: int) -> dict[str, Any]:
    """Judge all methods on passages cut after `cut` tokens of the model; each length is encoded separately."""
    dataset = run.dataset(name, limit=QUERIES)
    if cut >= run.model.max_document_length:
        return judged(run, dataset, {"kind": "passages", "value": cut})
    path = run.cache / "cut" / f"{dataset.corpus_hash()[:16]}-{run.model.fingerprint[:16]}-{cut}.jsonl.gz"
    if not path.exists():
        write_cut(dataset, path, cut, run.model.encoder.tokenizer)
    return judged(run, replace(dataset, name=f"{name}-cut{cut}", corpus_path=path), {"kind": "passages", "value": cut})


def write_cut(dataset: "Dataset", path: Path, cut: int, tokenizer: Any) -> None:
    """The corpus with each passage ended where its first `cut` tokens end, [CLS] and [SEP] counted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with gzip.open(draft, "wt", encoding="utf-8") as file:
        for passage in dataset.passages():
            spans = tokenizer(passage.content, return_offsets_mapping=True, truncation=True, max_length=cut)
            end = max(stop for _, stop in spans["offset_mapping"])
            file.write(json.dumps({"_id": passage.id, "text": passage.content[:end] or passage.content}) + "\n")
    draft.replace(path)


def misspelt(run: Run, name: str, share: float) -> dict[str, Any]:
    """Judge the queries with one edit in a share of their words of four letters and more."""
    dataset = run.dataset(name, limit=QUERIES)
    generator = random.Random(SEED)
    queries = {one: with_typos(text, share, generator) for one, text in dataset.queries.items()}
    changed = sum(queries[one] != text for one, text in dataset.queries.items())
    facts = {"kind": "typos", "value": share, "queries_changed": changed, "example": next(iter(queries.values()))}
    return judged(run, replace(dataset, queries=queries), facts)


def with_typos(text: str, share: float, generator: random.Random) -> str:
    """One character edit (swapped with the next, left out, doubled, or another letter) in a share of the words."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) < 4 or generator.random() >= share:
            continue
        at = generator.randrange(len(word) - 1)
        before, here, after = word[:at], word[at], word[at + 1 :]
        words[i] = generator.choice(
            [
                before + after[0] + here + after[1:],
                before + after,
                before + here + here + after,
                before + generator.choice(_LETTERS) + after,
            ]
        )
    return " ".join(words)


def query_length(run: Run, name: str, length: int) -> dict[str, Any]:
    """Judge queries that join the questions about one passage, cut to a number of tokens.

    All lengths use the same passages, those whose joined questions reach the greatest length, with one query each.
    """
    dataset = run.dataset(name, limit=None)
    joined = joined_questions(run, name)
    tokenizer = run.model.encoder.tokenizer
    ids = list(joined)
    most = min(QUERIES, run.limit or QUERIES)
    ids = [ids[i * len(ids) // most] for i in range(most)] if len(ids) > most else ids
    queries = {}
    for one in ids:
        spans = tokenizer(joined[one], return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        queries[one] = joined[one][: spans[min(length, len(spans)) - 1][1]]
    facts = {"kind": "queries", "value": length, "example": next(iter(queries.values()))}
    return judged(run, replace(dataset, queries=queries, qrels={one: {one: 1} for one in ids}), facts)


def joined_questions(run: Run, name: str) -> dict[str, str]:
    """For each passage, its joined questions, if they have enough tokens."""
    from fastlane_rag.evaluation.dataset import load_dataset

    dataset = load_dataset(run.data / name, "test")
    tokenizer = run.model.encoder.tokenizer
    texts: dict[str, list[str]] = {}
    for query_id, judgements in dataset.qrels.items():
        relevant = [document for document, grade in judgements.items() if grade > 0]
        if len(relevant) == 1:
            texts.setdefault(relevant[0], []).append(dataset.queries[query_id])
    joined = {document: " ".join(questions) for document, questions in texts.items()}
    lengths = {one: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for one, text in joined.items()}
    found = {one: text for one, text in joined.items() if lengths[one] >= max(LENGTHS)}
    if not found:
        raise SystemExit(f"no passage of {name} has questions of {max(LENGTHS)} tokens together; name another dataset")
    return found


def judged(run: Run, dataset: "Dataset", facts: dict[str, Any]) -> dict[str, Any]:
    """nDCG@10 of every method."""
    from fastlane_rag.evaluation.runner import judge
    from fastlane_rag.evaluation.suite import build

    found = {}
    with ExitStack() as stack:
        for method in build(dataset, run.corpus(dataset), METHODS, ROUTE_KS, "auto", stack):
            result = judge(method, dataset, progress(dataset.queries.items(), method.name), deep=False)  # type: ignore[arg-type]
            found[method.name] = {"nDCG@10": result.metrics["nDCG@10"], "R@10": result.metrics["R@10"]}
            if "fastlane" in method.name or method.name.startswith("full"):
                found[method.name]["bytes_per_document"] = result.bytes_per_document
    lengths = sorted(len(query.tokens) for query in run.model.encode_routed(list(dataset.queries.values())))
    return {
        "dataset": dataset.name.split("-cut")[0],
        **facts,
        "queries": len(dataset.queries),
        "query_tokens_median": lengths[len(lengths) // 2],
        "methods": found,
    }
