"""Retrieval datasets in BEIR's layout: corpus.jsonl(.gz), queries.jsonl(.gz) and qrels/{split}.tsv."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastlane_rag.data import Passage, read_passages, read_records
from fastlane_rag.data.jsonl import record_id, record_text
from fastlane_rag.errors import DataError


@dataclass(frozen=True, slots=True)
class Dataset:
    """The queries of one split and their judgements. The corpus stays on disk and is streamed.

    Attributes:
        name: the folder's name.
        split: which qrels file was read.
        corpus_path: the corpus file.
        queries: text by query id, of judged queries only.
        qrels: for each query id, the relevance by document id.
    """

    name: str
    split: str
    corpus_path: Path
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def passages(self) -> Iterator[Passage]:
        """Yield the passages of the corpus."""
        return read_passages(self.corpus_path)

    def corpus_hash(self) -> str:
        """SHA-256 (hex) of the corpus file; equal hashes mean equal passages."""
        with self.corpus_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load_dataset(folder: str | Path, split: str = "test", *, limit: int | None = None) -> Dataset:
    """Read the queries and judgements of one split of a BEIR folder.

    Args:
        folder: holds corpus.jsonl(.gz), queries.jsonl(.gz) and qrels/{split}.tsv.
        split: which judgements to read.
        limit: keep at most this many queries, spread evenly over the judged ones.

    Raises:
        DataError: a file is missing, or a line of one is bad; the message names the file and the line.
        ValueError: `limit` is below 1.
    """
    folder = Path(folder)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; a dataset is a folder in BEIR's layout")
    qrels_path = _qrels_path(folder, split)
    qrels = read_qrels(qrels_path)
    if limit is not None and limit < len(qrels):
        ids = list(qrels)
        qrels = {ids[i * len(ids) // limit]: qrels[ids[i * len(ids) // limit]] for i in range(limit)}
    queries_path = _find(folder, "queries")
    queries = _read_queries(queries_path)
    missing = [query_id for query_id in qrels if query_id not in queries]
    if missing:
        raise DataError(f"{qrels_path} judges query {missing[0]!r}, which {queries_path} does not hold")
    return Dataset(
        name=folder.resolve().name,
        split=split,
        corpus_path=_find(folder, "corpus"),
        queries={query_id: queries[query_id] for query_id in qrels},
        qrels=qrels,
    )


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements from tab-separated lines of query id, document id and relevance.

    Raises:
        DataError: the file cannot be read or holds no judgement, or a line of it is bad.
    """
    qrels: dict[str, dict[str, int]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                fields = line.rstrip("\r\n").split("\t")
                if not line.strip() or (number == 1 and fields[-1].strip() == "score"):
                    continue
                if len(fields) != 3:
                    raise DataError(
                        f"{path}, line {number}: expected query id, document id and relevance, "
                        f"tab-separated, found {len(fields)} field(s)"
                    )
                query_id, document_id, relevance = fields
                try:
                    qrels.setdefault(query_id, {})[document_id] = int(relevance)
                except ValueError:
                    raise DataError(
                        f"{path}, line {number}: relevance must be a whole number, not {relevance!r}"
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not qrels:
        raise DataError(f"{path} holds no judgement")
    return qrels


def _read_queries(path: Path) -> dict[str, str]:
    queries = {}
    for number, record in read_records(path):
        try:
            queries[record_id(record)] = record_text(record, "text")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return queries


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds neither {stem}.jsonl nor {stem}.jsonl.gz")


def _qrels_path(folder: Path, split: str) -> Path:
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        splits = ", ".join(sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))) or "none"
        raise DataError(f"{folder} has no split {split!r} (no {path}); splits there: {splits}")
    return path
