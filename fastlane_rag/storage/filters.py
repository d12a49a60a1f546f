"""The filter language over metadata, compiled to parameterised SQL.

    {"lang": "en", "year": {"$gte": 2020}}                     all conditions must hold
    {"$or": [{"lang": "en"}, {"$not": {"tags": {"$like": "draft%"}}}]}
    {"$id": {"$in": ["a", "b"]}, "author.name": "Ada", "day": {"$between": ["2024-01-01", "2024-06-30"]}}

A plain value means $eq. Values compare as JSON values of one type: numbers with numbers, text with text (by code
point), true and false only with themselves, null only with null. A document without the key matches $ne, $nin and
{"$exists": false}, and nothing else.

- A list meets a condition if one of its elements does; $ne and $nin are the opposites of $eq and $in.
- $contains finds a substring of a text, or an element of a list. $like takes a text with % for any characters and _ for
  one; case matters, and a backslash takes the next character literally. $between takes the least and the most.
- A key names a value of the metadata, whatever characters it has. If a document has no such key, a key with dots is the
  path to a value in nested objects.
- "$id" stands for the document's id.
- Dates of Python and NumPy compare as instants with the ISO 8601 texts that stand for them; a date is its midnight, and
  what has no time zone counts as UTC. $gt, $gte, $lt, $lte and $between take a date as ISO 8601 text as well.

A whole number of 2**63 or more, or below -2**63, may stand in metadata, but in no filter: SQLite would compare it as
a float. There it equals no number, and orders with those that it does not round to.

Every key and value travels as an SQL parameter.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package alone

import datetime
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fastlane_rag.errors import FilterError, InvalidInputError
from fastlane_rag.lengths import check_text
from fastlane_rag.storage.conditions import (
    Compiled,
    between,
    compared,
    contains,
    equal,
    join,
    like,
    negated,
    one_of,
)
from fastlane_rag.storage.metadata import catalogue_text
from fastlane_rag.types import Document

__all__ = ["AllOf", "Compiled", "DocumentFilter", "Filter", "all_of", "compile_filter", "having", "value_at"]


@dataclass(frozen=True, slots=True)
class DocumentFilter:
    """A filter by a function of the whole document, whose text has to be read for it."""

    test: Callable[[Document], bool]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Filters that a document passes all of, whatever their forms; made by `all_of`."""

    filters: tuple[Mapping[str, Any] | Callable[[Any], bool] | DocumentFilter, ...]


Filter = Mapping[str, Any] | Callable[[Any], bool] | DocumentFilter | AllOf
"""A filter as users write it: the language above, or a function of a document's metadata, or of the document."""

_DEEPEST = 20
# SQLite takes about a second to make ready for these, and the time grows with the square.
_MOST_VALUES = 8000
_LISTS = (list, tuple, set, frozenset)
_OPERATORS = (
    "$eq $ne $gt $gte $lt $lte $between $in $nin $contains $like $exists $not, and between filters $and $or $not"
)


# Conditions on a value, or on an element of a list.
_ON_VALUES: dict[Any, Callable[[str, Any], Compiled]] = {
    "$gt": partial(compared, "$gt"),
    "$gte": partial(compared, "$gte"),
    "$lt": partial(compared, "$lt"),
    "$lte": partial(compared, "$lte"),
    "$between": between,
    "$like": like,
}


def all_of(*filters: Filter | None) -> Filter | None:
    """The filter that passes what passes all of these; None where all of them are None."""
    given: list[Any] = []
    for one in filters:
        given += one.filters if isinstance(one, AllOf) else [] if one is None else [one]
    return AllOf(tuple(given)) if len(given) > 1 else given[0] if given else None


def compile_filter(filter: Filter, indexed: Collection[str] = ()) -> Compiled:
    """Compile a filter.

    Args:
        filter: the language of this module, in which {} matches everything, or a function.
        indexed: the keys that the catalogue keeps in its table `fields`.

    Raises:
        FilterError: a part of the filter is not valid; the message names it.
    """
    filters = filter.filters if isinstance(filter, AllOf) else (filter,)
    tests = tuple(one for one in filters if _is_test(one))
    dicts = [one for one in filters if not _is_test(one)]
    of_dicts = _all_of(dicts[0], frozenset(indexed), 0) if len(dicts) == 1 else _every(dicts, frozenset(indexed), -1)
    compiled = replace(of_dicts, tests=tests)
    if len(compiled.parameters) > _MOST_VALUES:
        raise FilterError(
            f"the filter has {len(compiled.parameters)} keys and values, above {_MOST_VALUES}; "
            "$in and $nin take lists of any length"
        )
    return compiled


def _is_test(filter_: Any) -> bool:
    return callable(filter_) or isinstance(filter_, DocumentFilter)


def _all_of(filter_: Any, indexed: frozenset[str], depth: int) -> Compiled:
    if not isinstance(filter_, Mapping):
        raise FilterError(f"a filter is a dict like {{'lang': 'en'}}, not {filter_!r}")
    if depth > _DEEPEST:
        raise FilterError(f"the filter is nested more than {_DEEPEST} levels deep")
    parts = []
    for key, condition in filter_.items():
        _check_key(key)
        if key in ("$and", "$or"):
            parts.append(_joined(key, condition, indexed, depth))
        elif key == "$not":
            parts.append(negated(_all_of(condition, indexed, depth + 1)))
        elif key.startswith("$") and key != "$id":
            raise FilterError(f"unknown operator {key!r} between filters; there are $and, $or, $not, and the key $id")
        else:
            parts.append(_field(key, condition, indexed, depth))
    return join(parts, " AND ", empty="1")


def _joined(operator: str, filters: Any, indexed: frozenset[str], depth: int) -> Compiled:
    if not isinstance(filters, Sequence) or isinstance(filters, str):
        raise FilterError(f"{operator} takes a list of filters, not {filters!r}")
    parts = list(_flat(operator, filters, depth))
    return (_any_of if operator == "$or" else _every)(parts, indexed, depth)


def _every(filters: Sequence[Any], indexed: frozenset[str], depth: int) -> Compiled:
    """The condition that all of these hold: no a and no b is neither of them, which `_any_of` makes quick."""
    denied = [_denied(part) for part in filters]
    parts = [_all_of(part, indexed, depth + 1) for part, no in zip(filters, denied, strict=True) if no is None]
    if opposites := [no for no in denied if no is not None]:
        parts.append(negated(_any_of(opposites, indexed, depth)))
    return join(parts, " AND ", empty="1")


def _denied(filter_: Any) -> Mapping[str, Any] | None:
    """What a filter is the opposite of, where it is one condition on one key."""
    key, asked, operand = _single(filter_)
    if key == "$not" and isinstance(filter_[key], Mapping):
        inside: Mapping[str, Any] = filter_[key]
        return inside
    if key is None or (key.startswith("$") and key != "$id"):
        return None
    if (asked == "$ne" and _is_plain(operand)) or (asked == "$not" and isinstance(operand, Mapping)):
        return {key: operand}
    return {key: {"$in": operand}} if asked == "$nin" and isinstance(operand, _LISTS) else None


def _any_of(filters: Sequence[Any], indexed: frozenset[str], depth: int) -> Compiled:
    """The condition that one of these holds.

    Conditions on one key are made one: each reads the metadata of every document, so 500 equalities would take 500
    times as long as one $in of 500 values.
    """
    values: dict[str, list[Any]] = {}
    contained: dict[str, list[Any]] = {}
    conditions: dict[str, list[Compiled]] = {}
    parts = []
    for part in _flat("$or", filters, depth):
        key, asked, operand = _single(part)
        if key is None or (key.startswith("$") and key != "$id"):
            parts.append(_all_of(part, indexed, depth + 1))
            continue
        _check_key(key)
        if asked == "$eq" and _is_plain(operand):
            values.setdefault(key, []).append(operand)
        elif asked == "$in" and isinstance(operand, _LISTS):
            values.setdefault(key, []).extend(operand)
        elif asked == "$contains":
            contained.setdefault(key, []).append(operand)
        elif asked in _ON_VALUES:
            conditions.setdefault(key, []).append(_ON_VALUES[asked](key, operand))
        else:
            parts.append(_all_of(part, indexed, depth + 1))
    for key, found in values.items():
        conditions.setdefault(key, []).append(one_of("$in", key, found))
    parts += [_where(key, join(found, " OR ", empty="0"), indexed) for key, found in conditions.items()]
    parts += [_where(key, contains(key, found), frozenset(), elements=False) for key, found in contained.items()]
    return join(parts, " OR ", empty="0")


def _is_plain(operand: Any) -> bool:
    return operand is None or isinstance(operand, str | int | float | datetime.date)


def _flat(operator: str, filters: Sequence[Any], depth: int) -> Iterator[Any]:
    """Yield the filters, with nested groups of the same operator flattened."""
    if depth > _DEEPEST:
        raise FilterError(f"the filter is nested more than {_DEEPEST} levels deep")
    for part in filters:
        key, _, operand = _single(part)
        if key == operator and isinstance(operand, list | tuple):
            yield from _flat(operator, operand, depth + 1)
        else:
            yield part


def _single(part: Any) -> tuple[str | None, Any, Any]:
    """Key, operator and operand of a filter that is one condition on one key; for any other filter the key is None."""
    if not isinstance(part, Mapping) or len(part) != 1:
        return None, None, None
    [(key, condition)] = part.items()
    if not isinstance(key, str):
        return None, None, None
    if isinstance(condition, Mapping):
        [(asked, operand)] = condition.items() if len(condition) == 1 else [(None, None)]
        return key, asked, operand
    return key, "$eq", condition


def _field(key: str, condition: Any, indexed: frozenset[str], depth: int) -> Compiled:
    """Compile one key's condition: a value, or a dict of operators that must all hold."""
    if not isinstance(condition, Mapping):
        return _where(key, equal("$eq", key, condition), indexed)
    if not condition:
        raise FilterError(f"the condition on {key!r} is empty; for an operator write {{'$eq': value}}")
    if depth > _DEEPEST:
        raise FilterError(f"the filter is nested more than {_DEEPEST} levels deep")
    parts = []
    for operator, operand in condition.items():
        if operator == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(f"$not on {key!r} takes operators like {{'$gt': 3}}, not {operand!r}")
            parts.append(negated(_field(key, operand, indexed, depth + 1)))
        else:
            parts.append(_operation(key, operator, operand, indexed))
    return join(parts, " AND ", empty="1")


def _operation(key: str, operator: Any, operand: Any, indexed: frozenset[str]) -> Compiled:
    if isinstance(operand, np.ndarray):
        operand = list(operand)
    if operator in _ON_VALUES:
        return _where(key, _ON_VALUES[operator](key, operand), indexed)
    match operator:
        case "$eq" | "$ne":
            found = _where(key, equal(operator, key, operand), indexed)
            return found if operator == "$eq" else negated(found)
        case "$in" | "$nin":
            found = _where(key, one_of(operator, key, operand), indexed)
            return found if operator == "$in" else negated(found)
        case "$contains":
            return _where(key, contains(key, [operand]), frozenset(), elements=False)
        case "$exists":
            if not isinstance(operand, bool):
                raise FilterError(f"$exists on {key!r} takes True or False, not {operand!r}")
            found = _where(key, Compiled("1"), indexed, elements=False)
            return found if operand else negated(found)
    raise FilterError(f"unknown operator {operator!r} on {key!r}; there are {_OPERATORS}")


def _where(key: str, condition: Compiled, indexed: frozenset[str], *, elements: bool = True) -> Compiled:
    """The condition that a document has a value under a key that meets `condition`. Never NULL, so NOT is exact.

    Args:
        key: of the metadata; with dots also of objects in it.
        condition: on the value e.
        indexed: keys in the table `fields`, which has a row for each value, without those of lists.
        elements: whether an element of a list may meet it as well.
    """
    if key == "$id":
        return _of_ids(condition)
    name = catalogue_text(key)
    if key in indexed and "." not in key:
        return _of_fields(name, condition, elements=elements)
    whole = _exists([name], condition, elements=elements)
    steps = name.split(".")
    if not 1 < len(steps) <= _DEEPEST:
        return whole
    # A key with dots that stands in the metadata itself hides what the path leads to.
    hidden = _exists([name], Compiled("1"), elements=False)
    nested = _exists(steps, condition, elements=elements)
    return Compiled(
        f"({whole.sql} OR NOT {hidden.sql} AND {nested.sql})",
        (*whole.parameters, *hidden.parameters, *nested.parameters),
    )


def _exists(steps: list[str], condition: Compiled, *, elements: bool) -> Compiled:
    """The condition that there is a value e at the end of a path, or an element x of it, that meets `condition`."""
    last = len(steps) - 1
    path, keys = [], []
    for i in range(len(steps)):
        row = "e" if i == last else f"p{i}"
        inside = "documents.metadata" if i == 0 else f"CASE p{i - 1}.type WHEN 'object' THEN p{i - 1}.value END"
        path.append(f"json_each({inside}) AS {row}")
        keys.append(f"{row}.key = ?")
    source, met, parameters = ", ".join(path), condition.sql, condition.parameters
    if elements:
        source += " LEFT JOIN json_each(CASE e.type WHEN 'array' THEN e.value END) AS x"
        met, parameters = f"({met} OR {condition.about('x')})", parameters * 2
    return Compiled(f"EXISTS (SELECT 1 FROM {source} WHERE {' AND '.join(keys)} AND {met})", (*steps, *parameters))


def _of_fields(name: str, condition: Compiled, *, elements: bool) -> Compiled:
    """As `_where`, for a key that the table `fields` has."""
    docs = f"SELECT e.doc FROM fields AS e WHERE e.key = ? AND ({condition.sql})"
    parameters: tuple[Any, ...] = (name, *condition.parameters)
    if elements:
        docs += (
            " UNION SELECT e.doc FROM fields AS e CROSS JOIN documents AS m ON m.doc = e.doc, "
            "json_each(m.metadata) AS f, json_each(CASE f.key WHEN e.key THEN f.value END) AS x "
            "WHERE e.key = ? AND e.value IS NULL AND e.type = 'array' "
            f"AND {condition.about('x')}"
        )
        parameters *= 2
    return Compiled(f"documents.doc IN ({docs})", parameters, docs)


def _of_ids(condition: Compiled) -> Compiled:
    """The condition that a document's id, as the value e, meets `condition`."""
    ids = "(SELECT doc, 'text' AS type, id AS value FROM documents) AS e"
    return Compiled(f"documents.doc IN (SELECT e.doc FROM {ids} WHERE {condition.sql})", condition.parameters)


def having(key: str, condition: Compiled | None = None) -> Compiled:
    """The condition that a document has a key, with a value, or an element of one, that meets a condition."""
    return _where(key, condition or Compiled("1"), frozenset())


def value_at(metadata: Mapping[str, Any], key: str) -> Any:
    """The value that a filter finds under a key; None where there is none."""
    if key in metadata or "." not in key:
        return metadata.get(key)
    value: Any = metadata
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _check_key(key: Any) -> None:
    try:
        check_text("a filter key", key)
    except InvalidInputError as error:
        raise FilterError(str(error)) from error
