"""Dates and times as instants: what ISO 8601 texts in metadata compare by.

A text is an instant if it is a date, or a date and time with or without a zone, as `isoformat` writes them. A date is
its midnight, and what has no zone counts as UTC.
"""

import datetime
import re
from typing import Any

import numpy as np

__all__ = ["IS_INSTANT", "SQL_INSTANT", "instant", "within_reach"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_SHAPE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)

IS_INSTANT = "e.value GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'"
"""The condition that a text begins as a date does. SQLite's date functions also take texts like 'now'."""

# A fraction of a second begins at the 20th character. SQLite would round it to milliseconds, so it is read apart.
_AFTER = "ltrim(substr(e.value, 21), '0123456789')"
_FRACTION = "substr(e.value, 20, 1) = '.'"
_DIGITS = f"substr(e.value, 21, length(e.value) - 20 - length({_AFTER}))"
SQL_INSTANT = (
    f"(1000000 * CAST(strftime('%s', CASE WHEN {_FRACTION} THEN substr(e.value, 1, 19) || {_AFTER} "
    f"ELSE e.value END) AS INTEGER) + CASE WHEN {_FRACTION} THEN CAST(substr({_DIGITS} || '000000', 1, 6) AS INTEGER) "
    "ELSE 0 END)"
)
"""The SQL for the instant of the text e.value; NULL for a text that is none."""


def within_reach(value: np.datetime64) -> bool:
    """Whether Python has dates of a NumPy date's year; "not a time" has none."""
    return not np.isnat(value) and 1 <= int(value.astype("datetime64[Y]").astype(np.int64)) + 1970 <= datetime.MAXYEAR


def instant(value: Any) -> int | None:
    """Microseconds from 1970-01-01 UTC of a date, a datetime, a NumPy date or an ISO 8601 text; None of others."""
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").tolist() if within_reach(value) else None
    if isinstance(value, str):
        if not _SHAPE.fullmatch(value):
            return None
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:  # the 31st of June
            return None
    if not isinstance(value, datetime.date):
        return None
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    aware: datetime.datetime = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH) // _MICROSECOND
