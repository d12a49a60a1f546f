"""Exports a dataset's corpus, encoded with the help of the cache of encoded corpora."""

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from side_by_side.corpus import Corpus, Query, Rows, write_documents, write_queries

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.evaluation.cache import CorpusCache
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.model import RoutedQuery

SEED = 0


def choose(ids: list[str], qrels: dict[str, dict[str, int]], count: int | None, seed: int = SEED) -> set[str]:
    """Choose all judged documents, and random others up to `count`; all documents if `count` is None.

    Raises:
        ValueError: more than `count` documents are judged.
    """
    if count is None or count >= len(ids):
        return set(ids)
    there = set(ids)
    judged = {document for of_query in qrels.values() for document in of_query if document in there}
    if len(judged) > count:
        raise ValueError(
            f"the queries judge {len(judged)} documents, more than the {count} asked for: ask fewer queries"
        )
    others = [id_ for id_ in ids if id_ not in judged]
    return judged | set(random.Random(seed).sample(others, count - len(judged)))


def export(
    dataset: "Dataset",
    model: "FastLaneModel",
    cache: Path,
    work: Path,
    *,
    documents: int | None = None,
    dense: bool = True,
) -> Corpus:
    """Write a dataset's encoded documents and queries; encode those that the cache does not have.

    Args:
        dataset: queries and corpus.
        model: encodes both.
        cache: folder of encoded corpora, as of `fastlane eval --cache`.
        work: folder of exports; an equal export is reused.
        documents: how many, judged ones first (see `choose`); None for all.
        dense: export pooled vectors of the documents too, which are encoded separately.

    Returns:
        The exported corpus.
    """
    chosen = choose([passage.id for passage in dataset.passages()], dataset.qrels, documents)
    chosen_by = json.dumps([dataset.split, list(dataset.queries), sorted(chosen), model.fingerprint, _routers(model)])
    name = f"{dataset.name}-{dataset.split}-{len(chosen)}-{hashlib.sha256(chosen_by.encode()).hexdigest()[:12]}"
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    part = _part(dataset, chosen, folder)
    if not (folder / "facts.json").is_file():
        _write(dataset, part, model, cache, folder, documents)
    if dense and not (folder / "dense.npy").is_file():
        np.save(folder / "dense-draft.npy", _dense(dataset, part, model, cache))
        (folder / "dense-draft.npy").rename(folder / "dense.npy")
    return Corpus(folder)


def _write(
    dataset: "Dataset", part: "Dataset", model: "FastLaneModel", cache: Path, folder: Path, documents: int | None
) -> None:
    from fastlane_rag.evaluation.whole import text_key

    passages = [(passage.id, passage.content) for passage in part.passages()]
    with _index(dataset, part, model, cache) as index:
        ids = [id_ for id_, _ in passages]
        tokens = _tokens(index, set(ids))
        entries = ((id_, text, one) for (id_, text), one in zip(passages, token_rows(index, ids), strict=True))
        write_documents(folder, entries, tokens, index.dim)
        dim = index.dim
    known = _cache(dataset, part, model, cache).scores()
    np.save(folder / "token-scores.npy", np.concatenate([known[text_key(text)] for _, text in passages]))
    del known
    write_queries(folder, encode_queries(model, dataset.queries), dataset.qrels)
    facts = {
        "dataset": dataset.name,
        "split": dataset.split,
        "documents": len(passages),
        "documents_of_dataset": sum(1 for _ in dataset.passages()),
        "chosen": "all" if documents is None else f"judged, others with seed {SEED}",
        "tokens": tokens,
        "dim": dim,
        "queries": len(dataset.queries),
        "model": model.name,
        "fingerprint": model.fingerprint,
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))  # last: it marks the export as complete


def encode_queries(model: "FastLaneModel", queries: dict[str, str]) -> list[Query]:
    """Encode queries: rows, router scores and pooled vector of each."""
    texts = list(queries.values())
    dense = model.encode_dense_queries(texts)
    return [
        Query(id_, text, one.tokens, *_arrays(one), vector)
        for id_, text, one, vector in zip(queries, texts, model.encode_routed(texts), dense, strict=True)
    ]


def _arrays(query: "RoutedQuery") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = query.embeddings.cpu().numpy()
    return rows, rows if query.views is None else query.views.cpu().numpy(), query.scores.cpu().numpy()


def token_rows(index: "FastLaneIndex", ids: Iterable[str]) -> Iterator[Rows]:
    """The (L, d) rows of documents, in this order, as the index stores them."""
    with index._storage.view() as view:
        places = {
            id_: (segment, row)
            for id_, segment, row in view.reader.connection.execute("SELECT id, segment, row FROM documents")
        }
    yield from view.snapshot.rows_at(places[id_] for id_ in ids)


def _tokens(index: "FastLaneIndex", ids: set[str]) -> int:
    with index._storage.view() as view:
        counts = view.reader.connection.execute("SELECT id, tokens FROM documents")
        return sum(tokens for id_, tokens in counts if id_ in ids)


def _part(dataset: "Dataset", chosen: set[str], folder: Path) -> "Dataset":
    """The dataset with only the chosen documents, in a corpus file of its own."""
    if len(chosen) == sum(1 for _ in dataset.passages()):
        return dataset
    path = folder / "corpus.jsonl.gz"
    with gzip.GzipFile(path, "wb", mtime=0) as file:  # equal bytes each time, because the cache is keyed by them
        for passage in dataset.passages():
            if passage.id in chosen:
                line: dict[str, Any] = {"_id": passage.id, "title": passage.title, "text": passage.text}
                file.write((json.dumps(line) + "\n").encode())
    return replace(dataset, corpus_path=path)


def _index(dataset: "Dataset", part: "Dataset", model: "FastLaneModel", cache: Path) -> "FastLaneIndex":
    """A half-precision index that holds the part."""
    return _cache(dataset, part, model, cache).index()


def _cache(dataset: "Dataset", part: "Dataset", model: "FastLaneModel", cache: Path) -> "CorpusCache":
    """The cache of the whole corpus if it is encoded, else that of the part."""
    whole, own = _caches(dataset, part, model, cache)
    return whole if (whole.folder / "index-is-complete").exists() else own


def _dense(dataset: "Dataset", part: "Dataset", model: "FastLaneModel", cache: Path) -> np.ndarray:
    """The pooled vectors of the part, from the cache of the whole corpus if it has them."""
    whole, own = _caches(dataset, part, model, cache)
    # Since it encodes a corpus once, the cache has pooled vectors in its side records.
    if not (whole.folder / "dense.npy").exists() and not any(whole.folder.glob("side-*")):
        return own.dense()[1]
    chosen = {passage.id for passage in part.passages()}
    ids, vectors = whole.dense()
    return vectors[[n for n, id_ in enumerate(ids) if id_ in chosen]]


def _caches(dataset: "Dataset", part: "Dataset", model: "FastLaneModel", cache: Path) -> list["CorpusCache"]:
    from fastlane_rag.evaluation.cache import CorpusCache

    return [CorpusCache(cache, one, model, lambda passages, _: passages) for one in (dataset, part)]


def _routers(model: "FastLaneModel") -> str:
    """Digest of the routers, which router scores depend on and the model's fingerprint leaves out."""
    digest = hashlib.sha256()
    for name, value in sorted(model.encoder.state_dict().items()):
        if "router" in name.lower() or value.numel() < 1 << 18:
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
