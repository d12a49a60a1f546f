"""The filter language over metadata, compiled to parameterised SQL.

    {"lang": "en", "year": {"$gte": 2020}}                     all conditions must hold
    {"$or": [{"lang": "en"}, {"$not": {"tags": {"$contains": "draft"}}}]}

A plain value means $eq. Values compare as JSON values of one type: numbers with numbers, text with text
(by code point), true and false only with themselves, null only with null. A document without the key
matches $ne, $nin and {"$exists": false}, and nothing else. $contains finds a substring of a text, or an
element of a list. A key is a top-level key of the metadata, taken literally.

A whole number of 2**63 or more, or below -2**63, may stand in metadata, but in no filter: SQLite would compare it as
a float. There it equals no number, and orders with those that it does not round to.

Every key and value travels as an SQL parameter.
"""

# ruff: noqa: S608 -- statements are put together from constants of this module alone

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastlane_rag.errors import FilterError, InvalidInputError
from fastlane_rag.storage.metadata import catalogue_text, check_text, json_value

__all__ = ["AllOf", "Compiled", "Filter", "all_of", "compile_filter"]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Filters that a document passes all of, whatever their forms; made by `all_of`."""

    filters: tuple[Mapping[str, Any] | Callable[[dict[str, Any]], bool], ...]


Filter = Mapping[str, Any] | Callable[[dict[str, Any]], bool] | AllOf
"""A filter as users write it: the language above, or a function of a document's metadata."""

# SQLite's parser stack holds 100 symbols, and its expressions are at most 1,000 terms deep.
_DEEPEST = 20
_LONGEST = 500
_MOST_VALUES = 30_000
_OPERATORS = "$eq $ne $gt $gte $lt $lte $in $nin $contains $exists $not, and between filters $and $or $not"
_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NUMBER = "e.type IN ('integer', 'real')"
# Not so of a whole number beyond 64 bits: a float to SQLite, of type 'integer'.
_EXACT = "typeof(e.value) = e.type"
_BEYOND = 2**63


@dataclass(frozen=True, slots=True)
class Compiled:
    """An SQL condition on the table `documents` and the values of its question marks.

    Attributes:
        sql: the condition.
        parameters: the values.
        field: the same condition on the table `fields` (as e), where one indexed key decides it alone.
        tests: functions that the metadata of a document must pass besides.
    """

    sql: str
    parameters: tuple[Any, ...] = ()
    field: str | None = None
    tests: tuple[Callable[[dict[str, Any]], bool], ...] = ()


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
    parts = [_all_of(one, frozenset(indexed), 0) for one in filters if not callable(one)]
    compiled = replace(_join(parts, " AND ", empty="1"), tests=tuple(one for one in filters if callable(one)))
    if len(compiled.parameters) > _MOST_VALUES:
        raise FilterError(
            f"the filter has {len(compiled.parameters)} keys and values, above {_MOST_VALUES}; "
            "$in and $nin take lists of any length"
        )
    return compiled


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
            parts.append(_negated(_all_of(condition, indexed, depth + 1)))
        elif key.startswith("$"):
            raise FilterError(f"unknown operator {key!r} between filters; there are $and, $or and $not")
        else:
            parts.append(_field(key, condition, indexed, depth))
    return _join(parts, " AND ", empty="1")


def _joined(operator: str, filters: Any, indexed: frozenset[str], depth: int) -> Compiled:
    if not isinstance(filters, Sequence) or isinstance(filters, str):
        raise FilterError(f"{operator} takes a list of filters, not {filters!r}")
    parts = [_all_of(part, indexed, depth + 1) for part in _grouped(operator, filters, depth)]
    return _join(parts, " AND ", empty="1") if operator == "$and" else _join(parts, " OR ", empty="0")


def _grouped(operator: str, filters: Sequence[Any], depth: int) -> list[Any]:
    """Combine the $eq and $in of one key in an $or to one $in; in an $and, the $ne and $nin to one $nin.

    Each condition reads the metadata of every document, so 500 equalities take 500 times as long as one $in of 500
    values.
    """
    one, many = ("$eq", "$in") if operator == "$or" else ("$ne", "$nin")
    values: dict[str, list[Any]] = {}
    others = []
    for part in _flat(operator, filters, depth):
        key, asked, operand = _single(part)
        if key is None or key.startswith("$"):
            others.append(part)
        elif asked == one and (operand is None or isinstance(operand, str | int | float)):
            values.setdefault(key, []).append(operand)
        elif asked == many and isinstance(operand, list | tuple | set | frozenset):
            values.setdefault(key, []).extend(operand)
        else:
            others.append(part)
    return others + [{key: {many: found}} for key, found in values.items()]


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
        return _where(key, _equal("$eq", key, json_value(condition)), indexed)
    if not condition:
        raise FilterError(f"the condition on {key!r} is empty; for an operator write {{'$eq': value}}")
    if depth > _DEEPEST:
        raise FilterError(f"the filter is nested more than {_DEEPEST} levels deep")
    parts = []
    for operator, operand in condition.items():
        if operator == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(f"$not on {key!r} takes operators like {{'$gt': 3}}, not {operand!r}")
            parts.append(_negated(_field(key, operand, indexed, depth + 1)))
        else:
            parts.append(_operation(key, operator, operand, indexed))
    return _join(parts, " AND ", empty="1")


def _operation(key: str, operator: Any, operand: Any, indexed: frozenset[str]) -> Compiled:
    operand = json_value(operand)
    if operator in ("$eq", "$ne"):
        found = _where(key, _equal(operator, key, operand), indexed)
        return found if operator == "$eq" else _negated(found)
    if operator in ("$in", "$nin"):
        found = _where(key, _one_of(operator, key, operand), indexed)
        return found if operator == "$in" else _negated(found)
    if operator in _ORDER:
        return _where(key, _ordered(operator, key, operand), indexed)
    if operator == "$contains":
        return _contains(key, operand)
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise FilterError(f"$exists on {key!r} takes True or False, not {operand!r}")
        found = _where(key, Compiled("1"), indexed)
        return found if operand else _negated(found)
    raise FilterError(f"unknown operator {operator!r} on {key!r}; there are {_OPERATORS}")


def _equal(operator: str, key: str, value: Any) -> Compiled:
    """The condition that the element `e` of a JSON object or list equals this value."""
    if value is None or isinstance(value, bool):
        return Compiled("(e.type = ?)", ({None: "null", True: "true", False: "false"}[value],))
    if isinstance(value, str):
        return Compiled("(e.type = 'text' AND e.value = ?)", (_plain(operator, key, value),))
    if isinstance(value, int | float):
        return Compiled(f"({_EXACT} AND e.value = ?)", (_plain(operator, key, value),))
    raise FilterError(f"{operator} on {key!r} takes a text, number, bool or None, not {value!r}")


def _one_of(operator: str, key: str, values: Any) -> Compiled:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Collection):
        raise FilterError(f"{operator} on {key!r} takes a list of values, not {values!r}")
    values = [json_value(value) for value in values]
    texts = [_plain(operator, key, v) for v in values if isinstance(v, str)]
    numbers = [_plain(operator, key, v) for v in values if _is_number(v)]
    parts = [_equal(operator, key, v) for v in values if not isinstance(v, str) and not _is_number(v)]
    # The list is one JSON parameter, so its length has no limit.
    among = "e.value IN (SELECT value FROM json_each(?))"
    if texts:
        parts.append(Compiled(f"(e.type = 'text' AND {among})", (json.dumps(texts),)))
    if numbers:
        parts.append(Compiled(f"({_EXACT} AND {among})", (json.dumps(numbers),)))
    return _join(parts, " OR ", empty="0")


def _ordered(operator: str, key: str, value: Any) -> Compiled:
    if isinstance(value, str):
        return Compiled(f"e.type = 'text' AND e.value {_ORDER[operator]} ?", (_plain(operator, key, value),))
    if _is_number(value):
        condition = f"{_NUMBER} AND e.value {_ORDER[operator]} ?"
        number = _plain(operator, key, value)
        if -_BEYOND < value < _BEYOND:
            return Compiled(condition, (number,))
        return Compiled(f"{condition} AND ({_EXACT} OR e.value <> ?)", (number, number))
    raise FilterError(f"{operator} on {key!r} compares numbers or texts, not {value!r}")


def _contains(key: str, value: Any) -> Compiled:
    """Compile $contains: a substring of a text, or an element of a list. Always reads the metadata, never `fields`."""
    element = _equal("$contains", key, value)
    sql = (
        "EXISTS (SELECT 1 FROM json_each(documents.metadata) AS f WHERE f.key = ? AND "
        f"(f.type = 'array' AND EXISTS (SELECT 1 FROM json_each(f.value) AS e WHERE {element.sql})"
    )
    if isinstance(value, str):
        sql += " OR f.type = 'text' AND instr(f.value, ?) > 0))"
        return Compiled(sql, (catalogue_text(key), *element.parameters, catalogue_text(value)))
    return Compiled(sql + "))", (catalogue_text(key), *element.parameters))


def _where(key: str, condition: Compiled, indexed: frozenset[str]) -> Compiled:
    """The condition that a document has this key, with a value that meets `condition`. Never NULL, so NOT is exact."""
    key = catalogue_text(key)
    parameters = (key, *condition.parameters)
    if key in indexed:
        field = f"e.key = ? AND ({condition.sql})"
        return Compiled(f"documents.doc IN (SELECT e.doc FROM fields AS e WHERE {field})", parameters, field)
    return Compiled(
        f"EXISTS (SELECT 1 FROM json_each(documents.metadata) AS e WHERE e.key = ? AND ({condition.sql}))",
        parameters,
    )


def _negated(part: Compiled) -> Compiled:
    return Compiled(f"(NOT {part.sql})", part.parameters)


def _join(parts: list[Compiled], glue: str, *, empty: str) -> Compiled:
    if not parts:
        return Compiled(empty)
    if len(parts) == 1:
        return parts[0]
    if len(parts) > _LONGEST:
        parts = [_join(parts[i : i + _LONGEST], glue, empty=empty) for i in range(0, len(parts), _LONGEST)]
    sql = glue.join(part.sql for part in parts)
    return Compiled(f"({sql})", tuple(value for part in parts for value in part.parameters))


def _check_key(key: Any) -> None:
    try:
        check_text("a filter key", key)
    except InvalidInputError as error:
        raise FilterError(str(error)) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(operator: str, key: str, value: Any) -> str | int | float:
    """A value SQLite can compare with: text as UTF-8, numbers as int64 or double."""
    if isinstance(value, str):
        try:
            return catalogue_text(check_text(f"{operator} on {key!r}", value))
        except InvalidInputError as error:
            raise FilterError(str(error)) from error
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FilterError(f"{operator} on {key!r} takes a finite number, not {value!r}")
        return float(value)
    number = int(value)
    if not -_BEYOND <= number < _BEYOND:
        raise FilterError(
            f"{operator} on {key!r} takes a number of 64 bits, not one of {number.bit_length()} bits, which could not "
            "be compared exactly; store such numbers as text, and compare texts"
        )
    return number
