"""Translation of LlamaIndex's metadata filters to the index's filter language.

Filters in that language run in the catalogue. Filters that it cannot express (`is_empty`, `text_match`,
`text_match_insensitive`, equality with a list) become a function of the metadata.

A node does not match where LlamaIndex's own filter would fail, because values do not compare (a text with a number, for
example). A missing key, or null, matches only `!=`, `nin` and `is_empty`. Groups may be nested. What the index's
language adds holds here as well: `==`, `in` and the orders match an element of a list, `!=` and `nin` are their
opposites, dates compare as instants, and a key with dots leads into objects.
"""

import operator
from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from fastlane_rag.errors import FilterError
from fastlane_rag.lengths import kind
from fastlane_rag.storage.filters import Filter, all_of, value_at
from fastlane_rag.storage.instants import instant

_ORDER: dict[FilterOperator, str] = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_HOLDS: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.EQ: operator.eq,
    FilterOperator.GT: operator.gt,
    FilterOperator.GTE: operator.ge,
    FilterOperator.LT: operator.lt,
    FilterOperator.LTE: operator.le,
    FilterOperator.IN: lambda stored, value: stored in value,
    FilterOperator.CONTAINS: lambda stored, value: value in stored,
    FilterOperator.ANY: lambda stored, value: any(one in stored for one in value),
    FilterOperator.ALL: lambda stored, value: all(one in stored for one in value),
    FilterOperator.TEXT_MATCH: lambda stored, value: isinstance(stored, str) and value in stored,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda stored, value: value.lower() in stored.lower(),
    FilterOperator.IS_EMPTY: lambda stored, _: stored in ("", []),
}
_TEXT = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_ITERATES = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_NEGATED = {FilterOperator.NE: FilterOperator.EQ, FilterOperator.NIN: FilterOperator.IN}
_OF_ELEMENTS = (FilterOperator.EQ, FilterOperator.IN, *_ORDER)
_MISSING_MATCHES = (FilterOperator.NE, FilterOperator.NIN, FilterOperator.IS_EMPTY)


class _Unsayable(Exception):
    """The index's filter language cannot express this."""


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """Translate a group of filters; None stands for no filter.

    Raises:
        FilterError: an operator does not take its value, or the filters are no MetadataFilters.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise FilterError(
            f"filters must be MetadataFilters, not {kind(filters)}; a dict goes into the option filter of a search"
        )
    _check(filters)
    if filters.filters and filters.condition in (None, FilterCondition.AND):
        return all_of(*map(_said, filters.filters))
    return _said(filters)


def _said(part: MetadataFilter | MetadataFilters) -> Filter:
    """One part of a filter: in the index's filter language, or as a function where that cannot express it."""
    try:
        return _part(part)
    except _Unsayable:
        return lambda metadata: _part_holds(part, metadata)


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


def _part(part: MetadataFilter | MetadataFilters) -> dict[str, Any]:
    if isinstance(part, MetadataFilter):
        return _one(part)
    parts = [_part(one) for one in part.filters]
    if not parts:
        return {}
    if part.condition == FilterCondition.OR:
        return {"$or": parts}
    if part.condition == FilterCondition.NOT:
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
    if one.operator in (FilterOperator.EQ, FilterOperator.CONTAINS) and not isinstance(value, list):
        return {key: {"$eq" if one.operator == FilterOperator.EQ else "$contains": value}}
    raise _Unsayable


def _part_holds(part: MetadataFilter | MetadataFilters, metadata: dict[str, Any]) -> bool:
    if isinstance(part, MetadataFilter):
        return _one_holds(part, metadata)
    if not part.filters:
        return True
    held = (_part_holds(one, metadata) for one in part.filters)
    if part.condition == FilterCondition.OR:
        return any(held)
    if part.condition == FilterCondition.NOT:
        return not any(held)
    return all(held)


def _one_holds(one: MetadataFilter, metadata: dict[str, Any]) -> bool:
    stored = value_at(metadata, one.key)
    if stored is None:
        return one.operator in _MISSING_MATCHES
    if one.operator in _NEGATED:
        return not _one_holds(one.model_copy(update={"operator": _NEGATED[one.operator]}), metadata)
    elements = stored if isinstance(stored, list) and one.operator in _OF_ELEMENTS else []
    return any(_holds(one, value) for value in [stored, *elements])


def _holds(one: MetadataFilter, stored: Any) -> bool:
    """Whether a value, or an element of a list, is what a filter asks for."""
    if isinstance(stored, bool):
        # The value of a LlamaIndex filter is never true or false, and in the index's language 1 is not true.
        return False
    value: Any = one.value
    if one.operator in _ORDER and (moment := instant(value)) is not None:
        stored, value = instant(stored), moment
    try:
        return _HOLDS[one.operator](stored, value)
    except (TypeError, AttributeError):
        return False
