"""What users hand to an index, checked before anything is encoded or stored."""

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import check_list, check_text, check_texts, kind, warn_caller
from fastlane_rag.search.query import EncodedQuery
from fastlane_rag.storage.metadata import metadata_json
from fastlane_rag.storage.tables import Entry

__all__ = [
    "check_hit",
    "check_ids",
    "check_queries",
    "checked_query",
    "prepare",
    "query_texts",
]


def prepare(
    texts: Iterable[str],
    ids: Iterable[str | None] | None,
    metadatas: Iterable[Mapping[str, Any] | None] | None,
) -> tuple[list[str], list[Entry]]:
    """Check the arguments of `add`.

    Returns:
        The id of each text in input order, generated where none was given, and the documents to store,
        one an id: of a repeated id the last one, at the place of the first.

    Raises:
        InvalidInputError: what is wrong, and at which position.
    """
    texts = check_texts(texts)
    given: list[str | None] = [None] * len(texts) if ids is None else check_list("ids", ids)
    if len(given) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts but {len(given)} ids")
    dicts: list[Any] = [None] * len(texts) if metadatas is None else check_list("metadatas", metadatas)
    if len(dicts) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts but {len(dicts)} metadatas")
    final = [uuid.uuid4().hex if id_ is None else check_text(f"ids[{i}]", id_) for i, id_ in enumerate(given)]
    entries: dict[str, Entry] = {}
    for i, (id_, text) in enumerate(zip(final, texts, strict=True)):
        entries[id_] = (id_, text, metadata_json(dicts[i], f"metadatas[{i}] (id {id_!r})"))
    return final, list(entries.values())


def check_ids(ids: Iterable[str]) -> list[str]:
    """A list of ids without repetitions, in order.

    Raises:
        InvalidInputError: a single str instead of a list, or an item that is no text.
    """
    return list(dict.fromkeys(check_text(f"ids[{i}]", id_) for i, id_ in enumerate(check_list("ids", ids))))


def checked_query(query: EncodedQuery, dim: int) -> EncodedQuery:
    """The query on the CPU, where the index is.

    Raises:
        InvalidInputError: it has other dimensions than the index, or values that are not finite.
    """
    found = query.embeddings.shape[-1]
    if found != dim:
        raise InvalidInputError(f"the query has {found} dimensions, the index {dim}")
    if not math.isfinite(float(query.embeddings.sum())):  # one NaN or infinity is enough, two may make a NaN
        raise InvalidInputError("the query's embeddings hold NaN or infinite values")
    return query.to_cpu()


def check_queries(queries: Iterable[str] | Iterable[EncodedQuery]) -> list[str] | list[EncodedQuery]:
    """The queries as a list, from any iterable. An empty query is warned of.

    Raises:
        InvalidInputError: a single text instead of several.
    """
    found = check_list("queries", queries)
    if any(isinstance(query, str) and not query.strip() for query in found):
        warn_caller("a query is empty: the documents that are found for it are as good as any others")
    return cast("list[str] | list[EncodedQuery]", found)


def query_texts(queries: Sequence[str] | Sequence[EncodedQuery], texts: Sequence[str] | None) -> list[str]:
    """The texts of the queries, which a search by words needs.

    Raises:
        InvalidInputError: the queries are encoded and `texts` does not give one text each.
    """
    if texts is None:
        if not all(isinstance(query, str) for query in queries):
            raise InvalidInputError(
                "a search by words (hybrid, or lane='words'): give the texts of encoded queries as texts=[...]"
            )
        texts = cast("Sequence[str]", queries)
    found = check_texts(texts, "texts")
    if len(found) != len(queries):
        raise InvalidInputError(f"{len(queries)} queries but {len(found)} texts")
    return found


def check_hit(hit: Any) -> None:
    """Refuse what is neither the id of a document nor a hit with text and metadata.

    Raises:
        InvalidInputError: it is neither.
    """
    if not isinstance(hit, str) and not (isinstance(getattr(hit, "text", None), str) and hasattr(hit, "metadata")):
        raise InvalidInputError(f"hit must be a hit of a search, or the id of a document, not {kind(hit)}")
