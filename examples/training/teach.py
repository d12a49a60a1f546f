"""Lists of hard negatives with an outside teacher's scores, for `fastlane train examples/training/distill.yaml`.

    python examples/training/teach.py TEACHER BASE DATA OUT

TEACHER is a directory with sentence-transformers/all-mpnet-base-v2 (model.safetensors sha256 78c0197b...5658), which
teaches and is never shipped; BASE, DATA and OUT as for fit_projection.py, so that nothing is encoded twice.
OUT/pairs gets one JSONL file per domain, {query, pos, neg, scores}: eight negatives per query, drawn from what the
base's mean vector, BM25 and the teacher find, and the teacher's cosines times SCALE. Passages that answer the query are
no negatives. A stopped run continues with the domain it was at.
"""

import json
import random
import sys
from functools import cache, partial
from pathlib import Path

import torch
from broad import DOCUMENT_TOKENS, MINED, QUERY_TOKENS, SEED, Domain, Encoder, domains, encoded, kept, mine

NEGATIVES, SCALE, CHUNK = 8, 20.0, 256


def vectors(encoder: Encoder, texts: list[str], most: int) -> torch.Tensor:
    """(N, h) mean vectors; the states of few texts are held at once."""
    parts = [encoder(texts[i : i + CHUNK], most).means() for i in range(0, len(texts), CHUNK)]
    return torch.cat(parts)


def lists(domain: Domain, teacher: Encoder) -> list[dict[str, object]]:
    """A record for each query."""
    print(f"teaching {domain.name}", flush=True)
    cosines = vectors(teacher, domain.queries, QUERY_TOKENS) @ vectors(teacher, domain.texts, DOCUMENT_TOKENS).T
    draw = random.Random(f"{SEED}-{domain.name}")
    records: list[dict[str, object]] = []
    for row, (query, gold, near) in enumerate(zip(domain.queries, domain.gold, domain.near, strict=True)):
        taught = [i for i in torch.topk(cosines[row], MINED).indices.tolist() if i not in gold]
        # A drawn sentence stands in its own passage word for word: the best of the others is to be found.
        answer = draw.choice(gold) if domain.labelled[row] else taught[0]
        found = [i for i in dict.fromkeys([*near[0], *near[1], *taught]) if i != answer]
        chosen = draw.sample(found, NEGATIVES)
        scores = [round(SCALE * float(cosines[row, i]), 4) for i in (answer, *chosen)]
        texts = [domain.texts[i] for i in (answer, *chosen)]
        records.append({"query": query, "pos": texts[0], "neg": texts[1:], "scores": scores})
    return records


def main(teacher: Path, base: Path, data: Path, out: Path) -> None:
    """Encode, mine, write."""
    sample = domains(data)
    mine(sample, encoded(cache(partial(Encoder, base)), sample, out / "cache"), out / "cache")
    taught_by = Encoder(teacher)
    (out / "pairs").mkdir(parents=True, exist_ok=True)
    for domain in sample:
        records = kept(out / "cache" / f"{domain.name}-taught.pt", partial(lists, domain, taught_by))
        lines = (json.dumps(record) + "\n" for record in records)
        (out / "pairs" / f"{domain.name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
