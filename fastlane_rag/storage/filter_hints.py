"""Why a filter matches nothing, where its keys or the types of its values tell."""

# ruff: noqa: S608 -- statements are put together from constants of this package alone

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from sqlite3 import Connection
from typing import Any

from fastlane_rag.storage.conditions import Compiled, of_kind, operand_kind
from fastlane_rag.storage.filters import AllOf, Filter, having

__all__ = ["why_nothing"]

# Each condition takes a look at the metadata of every document, or two.
_MOST_CONDITIONS = 8
_SEEN = 1000
_FOUND = ("a number", "a text", "true or false")
_NEEDS_A_VALUE = ("$eq", "$gt", "$gte", "$lt", "$lte", "$between", "$in", "$like", "$contains")


def why_nothing(connection: Connection, filter_: Filter) -> str:
    """One sentence on the first condition that no document can meet, because of its key or the type of its value.

    Args:
        connection: to the catalogue, in a transaction.
        filter_: a valid filter that no document passes.

    Returns:
        The sentence; "" where the documents do not tell, or there are none.
    """
    filters = filter_.filters if isinstance(filter_, AllOf) else (filter_,)
    conditions = [one for part in filters if isinstance(part, Mapping) for one in _conditions(part)]
    if not conditions or not _any(connection, Compiled("1")):
        return ""
    for key, operator, operand in conditions[:_MOST_CONDITIONS]:
        if not _any(connection, having(key)):
            return f"no document has the metadata key {key!r}{_nearest(connection, key)}"
        kind = _only_kind(operator, operand)
        if kind and not _any(connection, having(key, of_kind(kind))):
            found = next((k for k in _FOUND if _any(connection, having(key, of_kind(k)))), "")
            there = f"it is {found} in the documents" if found else "the documents have other values there"
            return f"the filter compares {key!r} with {kind}, and {there}{_advice(kind, found)}"
    return ""


def _conditions(filter_: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Key, operator and operand of each condition that a document without the key does not meet."""
    for key, condition in filter_.items():
        if key in ("$and", "$or"):
            for part in condition:
                yield from _conditions(part)
        elif key.startswith("$") and key != "$id":
            continue
        elif not isinstance(condition, Mapping):
            yield key, "$eq", condition
        else:
            yield from ((key, one, operand) for one, operand in condition.items() if one in _NEEDS_A_VALUE)


def _only_kind(operator: str, operand: Any) -> str | None:
    """The one kind of value that an operand compares with; None where there are several, or it is no matter."""
    if operator == "$contains":
        return None
    operands = list(operand) if operator in ("$in", "$between") else [operand]
    kinds = {operand_kind(operator, one) for one in operands}
    return kinds.pop() if len(kinds) == 1 else None


def _advice(given: str, found: str) -> str:
    if given == "a text" and found == "a number":
        return ": give the number without quotes"
    if given == "a number" and found == "a text":
        return ": give a text"
    return ": give a date in ISO 8601, and store such" if given == "a date" else ""


def _nearest(connection: Connection, key: str) -> str:
    query = (
        f"SELECT DISTINCT e.key FROM (SELECT metadata FROM documents LIMIT {_SEEN}) AS d, json_each(d.metadata) AS e "
        f"LIMIT {_SEEN}"
    )
    near = get_close_matches(key, [name for (name,) in connection.execute(query)], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _any(connection: Connection, condition: Compiled) -> bool:
    """Whether a document meets a condition."""
    query = f"SELECT EXISTS (SELECT 1 FROM documents WHERE {condition.sql})"
    return bool(connection.execute(query, condition.parameters).fetchone()[0])
