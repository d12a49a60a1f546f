"""Ingestion with Ray Data: files are read and encoded on all workers, and written shard by shard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from fastlane_rag.cluster.index import ClusterIndex
from fastlane_rag.data import document_of, parse_passage
from fastlane_rag.errors import DataError, FastLaneError
from fastlane_rag.index.progress import documents_bar
from fastlane_rag.storage.metadata import plain_metadata
from fastlane_rag.types import Document, Ingested

__all__ = ["KINDS", "ingest_files"]

LEDGER = "ingested.json"
_BATCH = 256
_BLOCK_BYTES = 4 << 20


def ingest_files(
    cluster: ClusterIndex,
    paths: Iterable[str],
    *,
    workers: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    files_at_once: int = 64,
    id_key: str = "_id",
    text_key: str = "text",
    show_progress: bool = False,
) -> Ingested:
    """Add the documents of files to a cluster.

    Files that are done are noted in the cluster's directory with their size, and passed over the next time; documents
    that are stored unchanged are not encoded again. So an interrupted ingestion is run again.

    Args:
        cluster: the cluster.
        paths: files, or globs of files, on a disk that all workers see or on any storage of fsspec, such as
            "s3://bucket/part-*.parquet": Parquet and JSON Lines (.jsonl, .jsonl.gz), a document a row, or text and
            Markdown, a document a file, with its path as the id.
        workers: processes that encode, each with the model.
        cpus: of the machines, for each worker.
        gpus: of the machines, for each worker.
        files_at_once: files that are noted as done together.
        id_key: column of Parquet files with the id; "id" is taken where it is missing.
        text_key: column of Parquet files with the text.
        show_progress: a progress bar on stderr.

    Returns:
        How many documents came, and how many of them were new, changed and unchanged; those of files that were done
        before are not among them.

    Raises:
        DataError: a path matches nothing, is of another kind, or a row is no document; files done before it stay done.
        ShardUnavailableError: a shard cannot be reached.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A batch of documents is far smaller than Ray's blocks, which small object stores do not hold.
    context.target_max_block_size = _BLOCK_BYTES
    found = _files(paths)
    ledger = _Ledger(Path(cluster.path, LEDGER))
    waiting = [path for path, size in found.items() if ledger.sizes.get(path) != size]
    done = Ingested(0, 0, 0, 0)
    with documents_bar(f"{len(waiting)} of {len(found)} files", None, visible=show_progress) as shown:
        for first in range(0, len(waiting), files_at_once):
            group = waiting[first : first + files_at_once]
            for read, some in _by_reader(group).items():
                counted = (
                    ray.data.from_items([{"path": path} for path in some], override_num_blocks=len(some))
                    .flat_map(read, fn_kwargs={"id_key": id_key, "text_key": text_key})
                    .map_batches(
                        _Store,
                        fn_constructor_args=(cluster,),
                        batch_size=_BATCH,
                        compute=ray.data.ActorPoolStrategy(size=workers),
                        num_cpus=cpus,
                        num_gpus=gpus,
                    )
                )
                for row in _raising(counted.iter_rows()):
                    done += Ingested(*(int(row[name]) for name in _COUNTS))
                    shown(int(row["documents"]))
            ledger.add({path: found[path] for path in group})
    return done


def _raising(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of Ray Data. An error of this project that a worker raised is raised as it was there."""
    try:
        yield from rows
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, FastLaneError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise (cause or error) from None


_COUNTS = ("documents", "added", "changed", "unchanged")


class _Store:
    """A worker: it encodes documents, and writes them to their shards.

    Args:
        cluster: the cluster, which a worker opens for itself.
    """

    def __init__(self, cluster: ClusterIndex) -> None:
        self._cluster = cluster

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Store a batch; returns a row of counts."""
        documents = [Document(**json.loads(one)) for one in batch["document"]]
        stored = self._cluster.ingest(documents, show_progress=False)
        return {name: np.array([getattr(stored, name)]) for name in _COUNTS}


def _packed(document: Document) -> dict[str, Any]:
    # As JSON, because Arrow would give every document the metadata keys of all others.
    said = {"id": document.id, "text": document.text, "metadata": plain_metadata(document.metadata)}
    return {"document": json.dumps(said)}


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        return _packed(document_of(parse_passage(line)))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _parquet(row: Mapping[str, Any], id_key: str, text_key: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    path = row["path"]
    with fsspec.open(path, "rb") as file:
        table = pyarrow.parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        for part in table.iter_batches(batch_size=_BATCH):
            for record in part.to_pylist():
                given = {"_id": record.pop(id_key, None) or record.pop("id", None), "text": record.pop(text_key, None)}
                rest = {key: one for key, one in record.items() if one is not None}
                yield _parsed(json.dumps(given | rest, default=str).encode(), f"{path}, columns {', '.join(columns)}")


def _json_lines(row: Mapping[str, Any], id_key: str, text_key: str) -> Iterator[dict[str, Any]]:
    path = row["path"]
    with fsspec.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line, f"{path}, line {number}")


def _text(row: Mapping[str, Any], id_key: str, text_key: str) -> Iterator[dict[str, Any]]:
    path = row["path"]
    with fsspec.open(path, "rb", compression="infer") as file:
        try:
            yield _packed(Document(path, file.read().decode("utf-8-sig"), {"source": path}))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}; save it as UTF-8, or leave it out") from error


_Read = Callable[..., Iterator[dict[str, Any]]]

KINDS: dict[str, _Read] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _text,
    ".md": _text,
}
"""What reads files of each ending."""


def _reader(path: str) -> _Read:
    for ending, read in KINDS.items():
        if path.lower().endswith(ending):
            return read
    raise DataError(f"{path} is of no kind that is read here: {', '.join(KINDS)}")


def _by_reader(paths: Sequence[str]) -> dict[_Read, list[str]]:
    found: dict[_Read, list[str]] = {}
    for path in paths:
        found.setdefault(_reader(path), []).append(path)
    return found


def _files(paths: Iterable[str]) -> dict[str, int]:
    """Every file, with its address and its size."""
    found: dict[str, int] = {}
    for pattern in paths:
        system, inner = fsspec.core.url_to_fs(os.fspath(pattern))
        matching = sorted(system.glob(inner)) if any(mark in inner for mark in "*?[") else [inner]
        files = [one for one in matching if system.isfile(one)]
        if not files:
            raise DataError(
                f"{pattern} matches no file; a folder is read as FOLDER/*.parquet, FOLDER/*.jsonl and so on"
            )
        for one in files:
            address = one if "file" in system.protocol else system.unstrip_protocol(one)
            _reader(address)
            found[address] = int(system.size(one) or 0)
    return found


class _Ledger:
    """Which files are done, by their size, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, sizes: Mapping[str, int]) -> None:
        """Note files as done."""
        self.sizes |= sizes
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self.sizes, indent=1))
        draft.replace(self._path)
