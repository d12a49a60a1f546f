"""A broad sample of passages and queries, and a transformer's token states of them.

    python examples/training/broad.py BASE DATA SAMPLE [--most 100]

BASE is a directory with sentence-transformers/all-MiniLM-L6-v2 (model.safetensors sha256 53aa5117...d9db), DATA the
folder of BEIR datasets. SAMPLE gets two files a domain: NAME.json with texts, queries and look-alikes, NAME.pt with the
states. A stopped run goes on with the domain it was at. --most cuts every domain, to try the recipe out.

What the recipe of the default model learns from, in eight domains: five question sets, titles with abstracts, Python
Enhancement Proposals, and functions of Python's standard library. Queries are labelled (questions, titles, headings,
the first sentence of a docstring) or drawn (a sentence of the passage). Only train splits are read, no passage that a
dev or test split judges, and nothing of the collections that judge the model zero-shot.
"""

import argparse
import ast
import gzip
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fastlane_rag.data import read_passages
from fastlane_rag.evaluation.baselines import Bm25
from fastlane_rag.evaluation.dataset import load_dataset, read_qrels
from fastlane_rag.training.projection import States
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

SEED, MINED = 17, 30
DOCUMENT_TOKENS, QUERY_TOKENS = 160, 48
BATCH_TOKENS = 4096
# Set, train split, passages, questions.
JUDGED = (
    ("squad_dev", "train", 1200, 900),
    ("medquad", "train", 1500, 900),
    ("fairytaleqa", "train", 1600, 900),
    ("nq_gold_mix", "train", 1700, 900),
    ("scifact", "train_minus_dev", 900, 709),
)
DRAWN = 400
DOMAINS = (*(name for name, *_ in JUDGED), "arxiv", "peps", "code")


@dataclass
class Domain:
    """Passages and queries of one kind.

    Attributes:
        name: name of the domain.
        texts: texts of the passages.
        queries: texts of the queries.
        gold: for each query, the passages that answer it.
        labelled: for each query, whether a person wrote it for its passage; else it is a sentence of the passage.
        near: for each query, similar passages by mean vector and by BM25, without its gold.
    """

    name: str
    texts: list[str]
    queries: list[str] = field(default_factory=list)
    gold: list[list[int]] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    near: list[list[list[int]]] = field(default_factory=list)

    def ask(self, query: str, gold: list[int], *, labelled: bool) -> None:
        """Add a query."""
        self.queries.append(query)
        self.gold.append(gold)
        self.labelled.append(labelled)


def read(sample: Path) -> list[Domain]:
    """The domains of a sample that was made, in the order of DOMAINS."""
    return [Domain(**json.loads((sample / f"{name}.json").read_text(encoding="utf-8"))) for name in DOMAINS]


def read_states(sample: Path, name: str) -> tuple[States, States]:
    """States of one domain's queries and passages."""
    return torch.load(sample / f"{name}.pt", weights_only=False)


def domains(data: Path) -> list[Domain]:
    """The whole sample, without look-alikes; equal at every call."""
    draw = random.Random(SEED)
    made = [_judged(data / name, split, passages, questions, draw) for name, split, passages, questions in JUDGED]
    return [*made, _abstracts(data, draw), _proposals(data, draw), _functions(draw)]


def cut(domain: Domain, most: int) -> Domain:
    """The first passages of a domain, and the queries that they answer."""
    made = Domain(domain.name, domain.texts[:most])
    for query, gold, labelled in zip(domain.queries, domain.gold, domain.labelled, strict=True):
        if found := [d for d in gold if d < most]:
            made.ask(query, found, labelled=labelled)
    return made


def _judged(folder: Path, split: str, most: int, questions: int, draw: random.Random) -> Domain:
    dataset = load_dataset(folder, split)
    passages = {p.id: p for p in dataset.passages()}
    held = {
        document
        for other in ("dev", "test")
        for grades in read_qrels(folder / "qrels" / f"{other}.tsv").values()
        for document in grades
    }
    gold = {q: [d for d, grade in grades.items() if grade > 0 and d in passages] for q, grades in dataset.qrels.items()}
    asked = [q for q in gold if gold[q]]
    draw.shuffle(asked)
    chosen = sorted({d for q in asked for d in gold[q]})
    draw.shuffle(chosen)
    chosen = chosen[:most]
    others = sorted(set(passages) - set(chosen) - held)
    draw.shuffle(others)
    chosen += others[: most - len(chosen)]
    place = {d: i for i, d in enumerate(chosen)}
    made = Domain(folder.name, [passages[d].content for d in chosen])
    for q in asked:
        if (found := [place[d] for d in gold[q] if d in place]) and len(made.queries) < questions:
            made.ask(dataset.queries[q], found, labelled=True)
    drawn = 0
    for i, d in enumerate(chosen):
        if drawn < DRAWN and draw.random() < 0.3 and (own := _sentences(passages[d].text)):
            made.ask(draw.choice(own), [i], labelled=False)
            drawn += 1
    return made


def _abstracts(data: Path, draw: random.Random) -> Domain:
    with gzip.open(data / "arxiv_title" / "train_pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in islice(lines, 2500)]
    made = Domain("arxiv", [pair["pos"] for pair in pairs])
    for i, pair in enumerate(pairs[:1500]):
        made.ask(pair["query"], [i], labelled=True)
    for i, text in enumerate(made.texts[1500:], 1500):
        if len(made.queries) < 1500 + DRAWN and (own := _sentences(text)):
            made.ask(draw.choice(own), [i], labelled=False)
    return made


def _proposals(data: Path, draw: random.Random) -> Domain:
    passages = [p for p in read_passages(data / "peps" / "corpus.jsonl.gz") if len(p.text) > 150]
    draw.shuffle(passages)
    passages = passages[:3000]
    # A passage whose heading is a query is used without the heading.
    made = Domain("peps", [p.text if i < 1300 else p.content for i, p in enumerate(passages)])
    for i, passage in enumerate(passages):
        if i < 1300 and len(passage.title.split()) > 2:
            made.ask(passage.title.replace(" > ", " "), [i], labelled=True)
        elif len(made.queries) < 2000 and (own := _sentences(passage.text)):
            made.ask(draw.choice(own), [i], labelled=False)
    return made


def _functions(draw: random.Random) -> Domain:
    found = list(_documented(Path(sysconfig.get_paths()["stdlib"])))
    draw.shuffle(found)
    found = list(dict(found).items())[:2500]
    made = Domain("code", [body for _, body in found])
    for i, (first, _) in enumerate(found[:1600]):
        made.ask(first, [i], labelled=True)
    return made


def _documented(root: Path) -> Iterator[tuple[str, str]]:
    """First sentence of the docstring, and the code without it, of functions and classes."""
    for file in sorted(root.rglob("*.py")):
        if {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"} & set(file.parts):
            continue
        try:
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        lines = source.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not (doc := ast.get_docstring(node)):
                continue
            first = re.split(r"(?<=[.!?])\s+|\n\n", doc.strip())[0].replace("\n", " ")
            written = node.body[0]
            body = lines[node.lineno - 1 : written.lineno - 1] + lines[written.end_lineno : node.end_lineno]
            if 4 <= len(first.split()) <= 30 and len(body) >= 4:
                yield first, "\n".join(body[:60])


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])\s+", text) if 4 <= len(s.split()) <= 40]


class Encoder:
    """A transformer's token states in bfloat16, in batches of similar length.

    Args:
        folder: a Hugging Face model directory.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], most: int) -> States:
        """States of each text, cut at ``most`` tokens."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=most)["input_ids"]
        lengths = torch.tensor([len(i) for i in ids])
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        rows = torch.empty(int(offsets[-1]), self.model.config.hidden_size, dtype=torch.float16)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            size = max(1, BATCH_TOKENS // len(ids[order[min(63, len(order) - 1)]]))
            part, order = order[: min(size, 64)], order[min(size, 64) :]
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in part]}, return_tensors="pt")
            states = self.model(**batch).last_hidden_state.half()
            for i, of_text in zip(part, states, strict=True):
                rows[offsets[i] : offsets[i + 1]] = of_text[: len(ids[i])]
        return States(rows, torch.tensor([t for i in ids for t in i]), offsets)


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """The result of ``make``, read from the file if an earlier run wrote it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), part := file.with_suffix(".part"))
        part.rename(file)
    return torch.load(file, weights_only=False)


def look_alikes(domain: Domain, queries: States, documents: States) -> list[list[list[int]]]:
    """For every query the similar passages, by the mean of token states and by BM25."""
    engine = Bm25([str(i) for i in range(len(domain.texts))], domain.texts)
    dense = torch.topk(queries.means() @ documents.means().T, MINED).indices.tolist()
    found = []
    for query, gold, by_mean in zip(domain.queries, domain.gold, dense, strict=True):
        by_words = [int(i) for i in engine.answer(query, MINED).ids]
        found.append([[i for i in by_mean if i not in gold], [i for i in by_words if i not in gold]])
    return found


def main(options: argparse.Namespace) -> None:
    """Draw, encode, find look-alikes."""
    encoder = Encoder(options.base)

    def both(domain: Domain) -> tuple[States, States]:
        print(f"encoding {domain.name}: {len(domain.queries)} queries, {len(domain.texts)} passages", flush=True)
        return encoder(domain.queries, QUERY_TOKENS), encoder(domain.texts, DOCUMENT_TOKENS)

    for whole in domains(options.data):
        file = options.sample / f"{whole.name}.json"
        if not file.exists():
            domain = cut(whole, options.most) if options.most else whole
            states = kept(options.sample / f"{domain.name}.pt", partial(both, domain))
            domain.near = look_alikes(domain, *states)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(asdict(domain)), encoding="utf-8")
            part.rename(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "data", "sample"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--most", type=int, help="passages a domain")
    main(parser.parse_args())
