"""Translation of LlamaIndex's metadata filters to the index's filter language.

Filters in that language run in the catalogue. Filters that it cannot express (`is_empty`, `text_match_insensitive`,
equality with a list) become a function of the metadata.

A node does not match where LlamaIndex's own filter would fail, because values do not compare (a text with a number, for
example). A missing key, or null, matches only `!=`, `nin` and `is_empty`. Groups may be nested.
"""

import operator
from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from fastlane_rag.errors import FilterError
from fastlane_rag.storage.filters import Filter

_ORDER: dict[FilterOperator, str] = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_HOLDS: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.EQ: operator.eq,
    FilterOperator.NE: operator.ne,
    FilterOperator.GT: operator.gt,
    FilterOperator.GTE: operator.ge,
    FilterOperator.LT: operator.lt,
    FilterOperator.LTE: operator.le,
    FilterOperator.IN: lambda stored, value: stored in value,
    FilterOperator.NIN: lambda stored, value: stored not in value,
    FilterOperator.CONTAINS: lambda stored, value: value in stored,
    FilterOperator.ANY: lambda stored, value: any(one in stored for one in value),
    FilterOperator.ALL: lambda stored, value: all(one in stored for one in value),
    FilterOperator.TEXT_MATCH: lambda stored, value: value in stored,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda stored, value: value.lower() in stored.lower(),
    FilterOperator.IS_EMPTY: lambda stored, _: stored in ("", []),
}
_TEXT = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_ITERATES = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_MISSING_MATCHES = (FilterOperator.NE, FilterOperator.NIN, FilterOperator.IS_EMPTY)


class _Unsayable(Exception):
    """The index's filter language cannot express this."""


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """Translate a group of filters; None stands for no filter.

    Raises:
        FilterError: an operator does not take its value.
        TypeError: the filters are no MetadataFilters.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise TypeError(f"filters must be MetadataFilters, not {type(filters).__name__}: {filters!r}")
    _check(filters)
    try:
        return _group(filters)
    except _Unsayable:
        return lambda metadata: _group_holds(filters, metadata)


def _check(filters: MetadataFilters) -> None:
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            _check(one)
        elif one.operator in _TEXT and not isinstance(one.value, str):
            raise FilterError(f"{one.operator.value} on {one.key!r} takes a text, not {one.value!r}")
        elif one.operator in _ITERATES and not isinstance(one.value, list):
            raise FilterError(f"{one.operator.value} on {one.key!r} takes a list, not {one.value!r}")
        elif one.operator in _ORDER and not isinstance(one.value, int | float | str):
            raise FilterError(f"{one.operator.value} on {one.key!r} takes a number or a text, not {one.value!r}")


def _group(filters: MetadataFilters) -> dict[str, Any]:
    parts = [_group(one) if isinstance(one, MetadataFilters) else _one(one) for one in filters.filters]
    if not parts:
        return {}
    if filters.condition == FilterCondition.OR:
        return {"$or": parts}
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$and": parts}


def _one(one: MetadataFilter) -> dict[str, Any]:
    key = one.key
    value: Any = one.value
    if one.operator == FilterOperator.NE:
        return {"$not": _one(one.model_copy(update={"operator": FilterOperator.EQ}))}
    if one.operator == FilterOperator.NIN:
        return {"$not": {key: {"$in": value}}}
    if one.operator == FilterOperator.IN:
        return {key: {"$in": value}}
    if one.operator in _ORDER:
        return {key: {_ORDER[one.operator]: value}}
    if one.operator == FilterOperator.EQ and value is None:
        return {"$or": []}  # as in LlamaIndex, where a missing value or null equals nothing, not even None
    if isinstance(value, list) and not value:
        raise _Unsayable
    if one.operator == FilterOperator.ANY:
        return {"$or": [{key: {"$contains": part}} for part in value]}
    if one.operator == FilterOperator.ALL:
        return {"$and": [{key: {"$contains": part}} for part in value]}
    if one.operator == FilterOperator.TEXT_MATCH:
        return {key: {"$contains": value, "$gte": ""}}  # only texts are >= ""
    if one.operator in (FilterOperator.EQ, FilterOperator.CONTAINS) and not isinstance(value, list):
        return {key: {"$eq" if one.operator == FilterOperator.EQ else "$contains": value}}
    raise _Unsayable


def _group_holds(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    if not filters.filters:
        return True
    held = (
        _group_holds(one, metadata) if isinstance(one, MetadataFilters) else _one_holds(one, metadata)
        for one in filters.filters
    )
    if filters.condition == FilterCondition.OR:
        return any(held)
    if filters.condition == FilterCondition.NOT:
        return not any(held)
    return all(held)


def _one_holds(one: MetadataFilter, metadata: dict[str, Any]) -> bool:
    stored = metadata.get(one.key)
    if stored is None:
        return one.operator in _MISSING_MATCHES
    if isinstance(stored, bool):
        # The value of a LlamaIndex filter is never true or false, and in the index's language 1 is not true.
        return one.operator in (FilterOperator.NE, FilterOperator.NIN)
    try:
        return _HOLDS[one.operator](stored, one.value)
    except (TypeError, AttributeError):
        return False
