"""Datasets of ir_datasets, exported once to BEIR's layout and then read like every other."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastlane_rag.errors import DataError, MissingExtraError

__all__ = ["PREFIX", "SPLIT", "export_ir_dataset"]

PREFIX = "ir_datasets:"
SPLIT = "test"
"""The split to write judgements under; the id already names the part of the dataset."""


def export_ir_dataset(name: str, root: Path) -> Path:
    """Export the documents, queries and judgements of an id such as "beir/scifact/test" to BEIR's layout.

    A dataset that was exported before is not fetched again. An incomplete export does not count.

    Args:
        name: the id, with or without "ir_datasets:" before it.
        root: the dataset gets a sub-folder here.

    Returns:
        The sub-folder.

    Raises:
        MissingExtraError: ir_datasets is not installed.
        DataError: there is no such id, it lacks documents, queries or judgements, or it could not be fetched.
    """
    name = name.removeprefix(PREFIX).strip("/")
    folder = root / name.replace("/", "-")
    if (folder / "qrels" / f"{SPLIT}.tsv").is_file():
        return folder
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError(
            f"the dataset {name!r} comes from ir_datasets: pip install 'fastlane-rag[ir-datasets]'"
        ) from error
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise DataError(f"ir_datasets has no dataset {name!r}; https://ir-datasets.com lists them") from error
    missing = [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]
    if missing:
        raise DataError(f"the ir_datasets dataset {name!r} has no {' and no '.join(missing)}; name one that has")
    try:
        _write(dataset, folder)
    except Exception as error:  # the library raises any error of its download tools
        raise DataError(
            f"cannot fetch the ir_datasets dataset {name!r} (is there a network?): {type(error).__name__}: {error}"
        ) from error
    return folder


def _write(dataset: Any, folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = ({"_id": one.doc_id, "text": one.default_text()} for one in dataset.docs_iter())
    queries = ({"_id": one.query_id, "text": one.default_text()} for one in dataset.queries_iter())
    _write_records(folder / "corpus.jsonl.gz", documents)
    _write_records(folder / "queries.jsonl.gz", queries)
    lines = [f"{one.query_id}\t{one.doc_id}\t{one.relevance}\n" for one in dataset.qrels_iter()]
    draft = folder / "qrels" / "draft"
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(folder / "qrels" / f"{SPLIT}.tsv")  # last: it marks the folder as complete


def _write_records(path: Path, records: Iterable[dict[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
