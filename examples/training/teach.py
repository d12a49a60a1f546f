"""An outside teacher's scores of queries and passages, for distil.py.

    python examples/training/teach.py TEACHER SAMPLE OUT [DOMAIN ...]

TEACHER is a directory with sentence-transformers/all-mpnet-base-v2 (model.safetensors sha256 78c0197b...5658), which
teaches and is never shipped; SAMPLE is the folder that broad.py made.

Of each domain (all of broad.py without DOMAIN; DOMAIN:1 is a second pool) a pool of POOL passages is taught: answers of
drawn queries and passages that look like them. Every query with an answer in the pool gets two scores of each passage
of it: the cosine of mean vectors, and the mean of the query's token maxima over all token states (SumMaxSim of an
untrained mpnet, over its number of tokens). OUT gets a file a pool, so that a stopped run goes on with the pool it was
at.
"""

import random
import sys
from functools import partial
from pathlib import Path

import torch
from broad import QUERY_TOKENS, SEED, Domain, Encoder, kept, read
from fastlane_rag.training.projection import States
from torch.nn import functional as F

POOL, DOCUMENT_TOKENS = 400, 128


def pool_of(domain: Domain, number: int) -> list[int]:
    """Passages that answer drawn queries, each with three that look alike."""
    draw = random.Random(f"{SEED}-{domain.name}" + (f"-{number}" if number else ""))
    order = list(range(len(domain.queries)))
    draw.shuffle(order)
    pool: dict[int, None] = {}
    for query in order:
        by_mean, by_words = domain.near[query]
        alike = [*draw.sample(by_mean[:10], min(2, len(by_mean))), *draw.sample(by_words[:10], min(1, len(by_words)))]
        pool |= dict.fromkeys([draw.choice(domain.gold[query]), *alike])
        if len(pool) >= POOL:
            break
    return list(pool)


def mean_maxsim(queries: States, documents: States) -> torch.Tensor:
    """(Q, N) SumMaxSim over the number of the query's tokens."""
    rows = F.normalize(documents.rows.float(), dim=-1)
    lengths = documents.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(documents)), lengths)
    scores = []
    for start, end in zip(queries.offsets[:-1].tolist(), queries.offsets[1:].tolist(), strict=True):
        tokens = F.normalize(queries.rows[start:end].float(), dim=-1)
        best = torch.full((len(tokens), len(documents)), -1.0)
        best.scatter_reduce_(1, owner.expand(len(tokens), -1), tokens @ rows.T, "amax")
        scores.append(best.mean(0))
    return torch.stack(scores)


def taught(domain: Domain, number: int, teacher: Encoder) -> dict[str, object]:
    """Of one domain: which passages and queries were scored, and both scores of each pair."""
    print(f"teaching {domain.name}, pool {number}", flush=True)
    pool = pool_of(domain, number)
    asked = [q for q, gold in enumerate(domain.gold) if set(gold) & set(pool)]
    documents = teacher([domain.texts[i] for i in pool], DOCUMENT_TOKENS)
    queries = teacher([domain.queries[q] for q in asked], QUERY_TOKENS)
    return {
        "pool": pool,
        "queries": asked,
        "cosine": queries.means() @ documents.means().T,
        "maxsim": mean_maxsim(queries, documents),
    }


def main(teacher: Path, sample: Path, out: Path, *names: str) -> None:
    """Teach the pools that are not taught yet."""
    taught_by = Encoder(teacher)
    drawn = {domain.name: domain for domain in read(sample)}
    for asked in names or drawn:
        name, _, number = asked.partition(":")
        file = out / f"{asked.replace(':', '-')}.pt"
        kept(file, partial(taught, drawn[name], int(number or 0), taught_by))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
