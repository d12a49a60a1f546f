"""What users hand to an index, checked before anything is encoded or stored."""

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import check_list, check_text, check_texts, kind, warn_caller
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.query import EncodedQuery
from fastlane_rag.storage.metadata import metadata_json
from fastlane_rag.storage.tables import Entry

__all__ = [
    "check_explained",
    "check_ids",
    "check_queries",
    "checked_query",
    "new_metadata",
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
        InvalidInputError: a single text instead of several, or embeddings that are no matrix, or without a row.
    """
    found = check_list("queries", queries)
    for i, query in enumerate(found):
        shape = tuple(getattr(getattr(query, "embeddings", None), "shape", (1, 1)))
        if len(shape) != 2 or 0 in shape:
            raise InvalidInputError(f"the embeddings of queries[{i}] must have the shape (tokens, dim), not {shape}")
    if any(isinstance(query, str) and not query.strip() for query in found):
        warn_caller("a query is empty: the documents that are found for it are as good as any others")
    return cast("list[str] | list[EncodedQuery]", found)


def query_texts(
    queries: Sequence[str] | Sequence[EncodedQuery], texts: Sequence[str] | None, told: SearchOptions
) -> list[str] | None:
    """The texts of the queries where words count, None elsewhere: `texts`, which are checked anyway, or the queries.

    Raises:
        InvalidInputError: `texts` are not one text a query, or words count and only encoded queries are given.
    """
    found = None if texts is None else check_texts(texts, "texts")
    if found is not None and len(found) != len(queries):
        raise InvalidInputError(f"{len(queries)} queries but {len(found)} texts")
    if not told.hybrid and told.lane != "words":
        return None
    if found is not None:
        return found
    if not all(isinstance(query, str) for query in queries):
        raise InvalidInputError(
            "a search by words (hybrid, or lane='words'): give the texts of encoded queries as texts=[...]"
        )
    return check_texts(cast("Sequence[str]", queries), "queries")


def new_metadata(ids: Iterable[str], metadatas: Iterable[Mapping[str, Any] | None]) -> dict[str, str]:
    """Check the arguments of `update_metadata`.

    Returns:
        The JSON of the new metadata by id: of a repeated id the last one.

    Raises:
        InvalidInputError: lengths differ, or something is no text or no JSON, and at which position.
    """
    names, values = check_texts(ids, "ids"), check_list("metadatas", metadatas)
    if len(names) != len(values):
        raise InvalidInputError(f"{len(names)} ids but {len(values)} metadatas")
    given = enumerate(zip(names, values, strict=True))
    return {id_: metadata_json(value, f"metadatas[{i}] (id {id_!r})") for i, (id_, value) in given}


def check_explained(query: Any, hit: Any, route_k: Any, weighted: Any) -> tuple[str, SearchOptions]:
    """Check the arguments of `explain`. Returns the query, and the options in the form that searches use.

    Raises:
        InvalidInputError: the query is no text, `hit` neither the id of a document nor a hit with text and metadata,
            or an option is not what it must be.
    """
    [query] = check_texts([query], "query")
    if isinstance(hit, str):
        check_text("hit", hit)
    elif not (isinstance(getattr(hit, "text", None), str) and isinstance(getattr(hit, "metadata", None), Mapping)):
        raise InvalidInputError(f"hit must be a hit of a search, or the id of a document, not {kind(hit)}")
    else:
        check_text("hit.text", hit.text)
    return query, SearchOptions.of(route_k=route_k, weighted=weighted)
