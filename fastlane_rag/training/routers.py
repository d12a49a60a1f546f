"""Training routers for a frozen checkpoint, without labels: they learn from its own ranking of the user's corpus."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastlane_rag.data import Passage
from fastlane_rag.errors import DataError, ModelError
from fastlane_rag.training.config import DataConfig, LossWeights, RoutingConfig, Source, TrainConfig

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel

__all__ = ["draw_queries", "train_router"]

logger = logging.getLogger("fastlane_rag.training")

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORDS = (4, 40)  # least and most words of a sentence that serves as a query
_NEGATIVES = 3
_DEPTH = 20
_DEV_SHARE = 0.1


def train_router(
    model: FastLaneModel,
    corpus: Sequence[Passage],
    output: str | Path,
    *,
    queries: Sequence[str] | None = None,
    most_queries: int = 2000,
    most_documents: int = 10_000,
    steps: int = 200,
    batch_size: int = 32,
    seed: int = 17,
    threads: int | None = None,
) -> FastLaneModel:
    """Train both routers of a late-interaction model by distilling its own full SumMaxSim ranking.

    The encoder is frozen. So the trained model has the same embeddings and fingerprint, and existing indexes stay
    valid. The ranking is computed once, on a sample of the corpus, and kept in ``output``. An interrupted training
    resumes from its last checkpoint.

    Args:
        model: any late-interaction model.
        corpus: passages to rank; a sample is drawn from a larger corpus.
        output: a directory for the ranking, the checkpoints, and finally the model (in "model").
        queries: typical queries; None draws titles and sentences from the corpus.
        most_queries: use at most this many queries.
        most_documents: rank at most this many passages.
        steps: optimisation steps of ``batch_size`` queries.
        batch_size: queries per step, each with one matching passage and three similar ones.
        seed: of every draw.
        threads: CPU threads; None leaves torch's setting.

    Returns:
        A model with the same embeddings and trained routers.

    Raises:
        DataError: there are fewer than 20 queries to learn from, or fewer than 20 passages.
        ModelError: ``output`` holds a training with other passages, queries, settings or another model.
    """
    from fastlane_rag.training.trainer import train_from

    folder = Path(output)
    draw = random.Random(seed)
    passages = list(corpus)
    if len(passages) > most_documents:
        passages = draw.sample(passages, most_documents)
    texts = list(queries) if queries is not None else draw_queries(passages, most_queries, seed)
    texts = [t for t in dict.fromkeys(texts) if t.strip()]
    draw.shuffle(texts)
    texts = texts[:most_queries]
    if len(texts) < 20 or len(passages) < 20:
        raise DataError(
            f"{len(texts)} queries and {len(passages)} passages are too few to learn routing from; give at least 20 "
            "of each (queries=..., or passages with titles or whole sentences)"
        )
    done, asked = folder / "ranking-is-complete", _digest(model, passages, texts)
    if not done.exists():
        _write_ranking(model, passages, texts, folder, draw)
        done.write_text(asked)
    elif done.read_text() != asked:
        raise ModelError(
            f"{folder} holds a ranking by another model, or of other passages or queries; remove it, or choose another "
            "output"
        )
    config = TrainConfig(
        output=folder,
        dim=None,
        seed=seed,
        routers_only=True,
        data=DataConfig(
            train={"pairs": Source(path=folder / "pairs.jsonl")},
            dev={"corpus": Source(path=folder / "dev", split="dev", limit=100)},
            negatives=_NEGATIVES,
        ),
        # There are no labels; the target is the ranking of full SumMaxSim.
        loss=LossWeights(full=0.0, routed=0.0, distill=1.0, expected=1.0),
        routing=RoutingConfig(k={1: 0.2, 2: 0.4, 4: 0.4}, temperature=(1.5, 0.3)),
        max_steps=steps,
        batch_size=batch_size,
        evaluate_every=max(1, steps // 2),
        saved_document_length=model.max_document_length,
        threads=threads,
    )
    return train_from(model, config)


def draw_queries(passages: Sequence[Passage], count: int, seed: int) -> list[str]:
    """Titles, and sentences of 4 to 40 words, to use as queries: at most ``count``, in random order."""
    draw = random.Random(f"{seed}-queries")
    found: list[str] = []
    for passage in draw.sample(list(passages), len(passages)):
        sentences = [s for s in _SENTENCE.split(passage.text) if _WORDS[0] <= len(s.split()) <= _WORDS[1]]
        candidates = [passage.title] if len(passage.title.split()) > 1 else []
        if sentences:
            candidates.append(draw.choice(sentences))
        found += candidates
        if len(found) >= count:
            break
    return found[:count]


def _write_ranking(
    model: FastLaneModel, passages: Sequence[Passage], queries: Sequence[str], folder: Path, draw: random.Random
) -> None:
    """Rank the passages for every query; write training pairs and a dev collection made of the rankings."""
    from fastlane_rag.index import FastLaneIndex

    folder.mkdir(parents=True, exist_ok=True)
    dev_count = max(10, round(_DEV_SHARE * len(queries)))
    with FastLaneIndex.create(model=model) as index:
        logger.info("encoding %d passages", len(passages))
        index.add([p.content for p in passages], ids=[p.id for p in passages], show_progress=False)
        logger.info("ranking them for %d queries", len(queries))
        results = index.search_batch_detailed(queries, _DEPTH, route_k="all", weighted=False)
        ranked = [
            (query, [(hit.id, hit.text) for hit in result.hits]) for query, result in zip(queries, results, strict=True)
        ]
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for query, hits in ranked[dev_count:]:
            # Leave out the passage that a query was drawn from. It matches word for word, so it teaches nothing.
            others = [text for _, text in hits if query not in text]
            if len(others) > _NEGATIVES:
                negatives = draw.sample(others[1:], _NEGATIVES)
                file.write(json.dumps({"query": query, "pos": others[0], "neg": negatives}) + "\n")
    _write_dev(folder / "dev", passages, ranked[:dev_count])


def _digest(model: FastLaneModel, passages: Sequence[Passage], queries: Sequence[str]) -> str:
    """What a ranking depends on."""
    content = [model.fingerprint, [(one.id, one.content) for one in passages], list(queries)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write_dev(folder: Path, passages: Sequence[Passage], ranked: Sequence[tuple[str, list[tuple[str, str]]]]) -> None:
    """Write a BEIR folder whose relevant passages are the ten that full SumMaxSim ranks first, so it scores 1."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for passage in passages:
            file.write(json.dumps({"_id": passage.id, "title": "", "text": passage.content}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for number, (query, _) in enumerate(ranked):
            file.write(json.dumps({"_id": str(number), "text": query}) + "\n")
    with (folder / "qrels" / "dev.tsv").open("w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for number, (_, hits) in enumerate(ranked):
            file.writelines(f"{number}\t{id_}\t{10 - rank}\n" for rank, (id_, _) in enumerate(hits[:10]))
