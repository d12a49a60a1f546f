"""Training pairs with hard negatives, and small dev collections, from BEIR folders and pair files."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlane_rag.data import read_records
from fastlane_rag.errors import DataError
from fastlane_rag.evaluation.baselines import Bm25
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.training.config import DataConfig, Source

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel

__all__ = ["DevSet", "Pair", "file_hashes", "load_dev", "load_pairs"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, a passage that answers it, and hard negatives.

    Attributes:
        query: text of the query.
        positive: text of a passage that answers it.
        negatives: texts of passages that do not.
        scores: an outside teacher's scores of the positive, then of each negative; None without a teacher.
    """

    query: str
    positive: str
    negatives: list[str]
    scores: list[float] | None = None


@dataclass(frozen=True, slots=True)
class DevSet:
    """A small judged collection.

    Attributes:
        name: name of the source.
        queries: text by id.
        documents: text by id.
        qrels: relevance by document id by query id.
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]


def load_pairs(
    name: str, source: Source, config: DataConfig, seed: int, model: FastLaneModel | None = None
) -> list[Pair]:
    """Read one training source and mine its hard negatives.

    Args:
        name: for messages.
        source: a BEIR folder or a JSONL file of {query, pos} or {query, pos, neg: [...]}, whose own negatives are
            then taken, with the scores of a teacher, {..., scores: [...]}, if there are any.
        config: how many negatives to draw, from which ranks.
        seed: of the draws of pairs and negatives.
        model: mines negatives with its dense vectors, besides BM25; None mines with BM25 only.
    """
    draw = random.Random(f"{seed}-{name}")
    if given := _given(source, config.negatives):
        draw.shuffle(given)
        return given[: source.limit]
    texts, labelled = _read(source)
    labelled = [(q, gold) for q, gold in labelled if q.strip()]
    draw.shuffle(labelled)
    labelled = labelled[: source.limit]
    if not labelled:
        raise DataError(f"{source.path} holds no pair to train on")
    if config.negatives == 0:
        return [Pair(q, texts[draw.choice(sorted(gold))], []) for q, gold in labelled]
    ids = list(texts)
    miners = [_bm25_miner(ids, list(texts.values()))]
    if model is not None:
        miners.append(_dense_miner(model, ids, list(texts.values()), [q for q, _ in labelled]))
    first, last = config.negative_depth
    pairs = []
    for query, gold in labelled:
        gold_texts = {texts[g] for g in gold}
        found: list[str] = []
        for mine in miners:
            ranked = mine(query, last + len(gold))[first - 1 :]
            found += [i for i in ranked if i not in gold and texts[i] not in gold_texts]
        found = list(dict.fromkeys(found))
        chosen = draw.sample(found, min(config.negatives, len(found)))
        while len(chosen) < config.negatives:  # too few similar passages: take any other
            other = draw.choice(ids)
            if other not in gold and other not in chosen:
                chosen.append(other)
        pairs.append(Pair(query, texts[draw.choice(sorted(gold))], [texts[i] for i in chosen]))
    return pairs


def load_dev(name: str, source: Source, size: int, seed: int) -> DevSet:
    """A dev collection: every judged passage of the drawn queries, and others up to ``size``."""
    dataset = load_dataset(source.path, source.split, limit=source.limit)
    documents = {p.id: p.content for p in dataset.passages()}
    judged = {d for grades in dataset.qrels.values() for d, grade in grades.items() if grade > 0}
    others = sorted(set(documents) - judged)
    random.Random(f"{seed}-{name}-dev").shuffle(others)
    kept = sorted(judged & set(documents)) + others[: max(0, size - len(judged))]
    return DevSet(name, dataset.queries, {d: documents[d] for d in kept}, dataset.qrels)


def file_hashes(sources: dict[str, Source]) -> dict[str, str]:
    """SHA-256 of every file that a run reads, by "source/file"."""
    hashes = {}
    for name, source in sources.items():
        for file in _files(source):
            with file.open("rb") as stream:
                hashes[f"{name}/{file.name}"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _files(source: Source) -> Iterator[Path]:
    if source.path.is_file():
        yield source.path
        return
    for stem in ("corpus", "queries"):
        yield from source.path.glob(f"{stem}.jsonl*")
    yield source.path / "qrels" / f"{source.split}.tsv"


def _read(source: Source) -> tuple[dict[str, str], list[tuple[str, set[str]]]]:
    """Texts by id, and queries with the ids of the passages that answer them."""
    if source.path.is_file():
        texts, labelled = {}, []
        for number, record in _pair_records(source.path):
            key = str(record.get("pos_id", number))
            texts[key] = record["pos"]
            labelled.append((record["query"], {key}))
        return texts, labelled
    dataset = load_dataset(source.path, source.split)
    texts = {p.id: p.content for p in dataset.passages()}
    labelled = []
    for query_id, grades in dataset.qrels.items():
        gold = {d for d, grade in grades.items() if grade > 0 and d in texts}
        if gold:
            labelled.append((dataset.queries[query_id], gold))
    return texts, labelled


def _pair_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in read_records(path):
        if not isinstance(record.get("query"), str) or not isinstance(record.get("pos"), str):
            raise DataError(f'{path}, line {number}: expected strings "query" and "pos"')
        yield number, record


def _given(source: Source, count: int) -> list[Pair] | None:
    """The pairs of a file that has negatives; None for a file without."""
    if not source.path.is_file():
        return None
    pairs: list[Pair] = []
    for number, record in _pair_records(source.path):
        negatives = record.get("neg")
        if negatives is None and not pairs:
            return None
        if not isinstance(negatives, list) or len(negatives) < count or not all(isinstance(n, str) for n in negatives):
            raise DataError(f'{source.path}, line {number}: expected at least {count} strings in "neg"')
        pair = Pair(record["query"], record["pos"], negatives[:count], _teacher(record, source, number, count))
        if pairs and (pair.scores is None) != (pairs[0].scores is None):
            raise DataError(f'{source.path}, line {number}: "scores" must be in every line or in none')
        pairs.append(pair)
    return pairs or None


def _teacher(record: dict[str, Any], source: Source, number: int, count: int) -> list[float] | None:
    """The teacher's scores of the positive and of the first `count` negatives."""
    scores = record.get("scores")
    if scores is None:
        return None
    wanted = 1 + len(record["neg"])
    if (
        not isinstance(scores, list)
        or len(scores) != wanted
        or not all(type(s) in (int, float) and math.isfinite(s) for s in scores)
    ):
        raise DataError(f'{source.path}, line {number}: expected {wanted} finite numbers in "scores", got {scores!r}')
    return [float(s) for s in scores[: 1 + count]]


def _bm25_miner(ids: list[str], texts: list[str]) -> _Miner:
    engine = Bm25(ids, texts)
    return lambda query, depth: engine.answer(query, depth).ids


def _dense_miner(model: FastLaneModel, ids: list[str], texts: list[str], queries: list[str]) -> _Miner:
    documents = model.encode_dense_documents(texts)
    vectors = dict(zip(queries, model.encode_dense_queries(queries), strict=True))

    def mine(query: str, depth: int) -> list[str]:
        scores = documents @ vectors[query]
        depth = min(depth, len(scores))
        best = np.argpartition(-scores, depth - 1)[:depth]
        return [ids[i] for i in best[np.argsort(-scores[best], kind="stable")]]

    return mine


if TYPE_CHECKING:
    from collections.abc import Callable

    _Miner = Callable[[str, int], list[str]]
