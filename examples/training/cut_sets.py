"""Test collections small enough to encode on a busy core: 150 questions, what judges them, and others up to 1,000.

    python examples/training/cut_sets.py DATA OUT

Questions are those that `fastlane eval --limit 150` takes. The collections in WHOLE keep all passages.
"""

import gzip
import json
import random
import sys
from pathlib import Path

from fastlane_rag.evaluation.dataset import load_dataset

CUT = ("scifact", "squad_dev", "nq_gold_mix", "medquad", "fairytaleqa", "arxiv_title")
WHOLE = ("cacm", "trec_dl20_pool", "codebase_chunks", "cranfield")
QUESTIONS, PASSAGES, SEED = 150, 1000, 17


def write(path: Path, records: list[dict[str, str]]) -> None:
    """Gzipped JSON Lines."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def main(data: Path, out: Path) -> None:
    """Cut and write."""
    for name in (*CUT, *WHOLE):
        dataset = load_dataset(data / name, "test", limit=QUESTIONS)
        passages = {p.id: p for p in dataset.passages()}
        kept = sorted({d for grades in dataset.qrels.values() for d in grades if d in passages})
        others = sorted(set(passages) - set(kept))
        random.Random(f"{SEED}-{name}-test").shuffle(others)
        kept += others if name in WHOLE else others[: max(0, PASSAGES - len(kept))]
        folder = out / name
        (folder / "qrels").mkdir(parents=True)
        texts = [{"_id": d, "title": passages[d].title or "", "text": passages[d].text} for d in kept]
        write(folder / "corpus.jsonl.gz", texts)
        write(folder / "queries.jsonl.gz", [{"_id": q, "text": text} for q, text in dataset.queries.items()])
        rows = [f"{q}\t{d}\t{g}\n" for q, grades in dataset.qrels.items() for d, g in grades.items() if d in passages]
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
