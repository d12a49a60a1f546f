"""Metadata filters as JSON. A date is sent as {"$date": "2024-05-01"}, because JSON has no dates."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, cast

from fastlane_rag.errors import FilterError, InvalidInputError
from fastlane_rag.storage.filters import AllOf, Filter, compile_filter
from fastlane_rag.storage.metadata import is_date, json_value

__all__ = ["filter_message", "filter_of"]

_DATE = "$date"


def filter_message(filter: Filter | None) -> dict[str, Any] | None:
    """A filter as it is sent.

    Raises:
        InvalidInputError: it is, or holds, a function, which cannot be sent.
        FilterError: a part of it is not valid. It is told here, because JSON has no NaN, no sets and no such errors.
    """
    if filter is None:
        return None
    if compile_filter(filter).tests:
        raise InvalidInputError(
            f"the filter {filter!r} cannot be sent to a server; write it in the filter language, as a dict"
        )
    if isinstance(filter, AllOf):
        return {"$and": [_sent(one) for one in filter.filters]}
    return cast("dict[str, Any]", _sent(filter))


def filter_of(message: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The filter that was sent.

    Raises:
        FilterError: what stands under $date is no date.
    """
    return None if message is None else {key: _received(value) for key, value in message.items()}


def _sent(value: Any) -> Any:
    if is_date(value):
        return {_DATE: json_value(value)}
    if isinstance(value, Mapping):
        return {key: _sent(one) for key, one in value.items()}
    value = json_value(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return [_sent(one) for one in value]


def _received(value: Any) -> Any:
    if isinstance(value, list):
        return [_received(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() != {_DATE}:
        return filter_of(value)
    try:
        return datetime.datetime.fromisoformat(value[_DATE])
    except (TypeError, ValueError) as error:
        raise FilterError(f"{_DATE} takes a date in ISO 8601, not {value[_DATE]!r}") from error
