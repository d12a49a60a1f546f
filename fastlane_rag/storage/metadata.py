"""Metadata as the catalogue stores it: JSON text with U+0000 escaped.

SQLite's JSON functions before 3.45 end a text at U+0000, which occurs in text extracted from PDFs. The catalogue
therefore stores U+0000 as U+FDD0 "0", and U+FDD0 (a code point that is no character) as U+FDD0 "1". The keys and
values of filters are escaped in the same way.

One rule says what a value may be, for documents, for filters and for both frameworks: `json_value`.
"""

import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import check_text, kind
from fastlane_rag.storage.instants import within_reach
from fastlane_rag.types import IMAGE_KEY

__all__ = [
    "catalogue_text",
    "image_of",
    "is_date",
    "json_value",
    "metadata_from_json",
    "metadata_json",
    "plain_metadata",
]

# SQLite's JSON functions fail beyond 1,000 levels.
_DEEPEST = 100
_ESCAPE = "\ufdd0"
# Python writes no whole number of more.
_MOST_DIGITS = 4300
_MOST_BITS = int(_MOST_DIGITS * math.log2(10))


def metadata_json(metadata: Any, where: str = "metadata") -> str:
    """The catalogue's JSON text for a metadata dictionary; None is an empty one.

    Raises:
        InvalidInputError: something in it cannot be stored; the message names the part.
    """
    if metadata is None:
        return "{}"
    plain = plain_metadata(metadata, where)
    text = _dumps(plain, where)
    if "\\u0000" in text or _ESCAPE in text:
        text = _dumps(_mapped(plain, catalogue_text), where)
    return text


def plain_metadata(metadata: Any, where: str = "metadata") -> dict[str, Any]:
    """A copy of a metadata dictionary that is JSON, with values as `json_value` gives them.

    Raises:
        InvalidInputError: something in it cannot be stored; the message names the part.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"{where} must be a dict, not {kind(metadata)}")
    plain: dict[str, Any] = _plain(metadata, where, 0)
    return plain


def json_value(value: Any) -> Any:
    """The JSON value that stands for a value of Python; values of other types come back as they are.

    Dates and times become texts of ISO 8601, UUIDs and paths texts, members of enums their values, decimals numbers.
    NumPy's scalars and arrays become what they hold. "Not a time", of pandas and NumPy, is None.
    """
    if isinstance(value, enum.Enum):
        return json_value(value.value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat() if value == value else None
    if isinstance(value, uuid.UUID | PurePath):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return _number(value)
    if isinstance(value, np.generic | np.ndarray):
        return _of_numpy(value)
    return value


def is_date(value: Any) -> bool:
    """Whether a value is a date of Python, or a NumPy date that Python has too; "not a time" is none."""
    if isinstance(value, np.datetime64):
        return within_reach(value)
    return isinstance(value, datetime.date) and bool(value == value)


def metadata_from_json(text: str) -> dict[str, Any]:
    """The metadata dictionary that `metadata_json` wrote."""
    metadata: dict[str, Any] = json.loads(text)
    return _mapped(metadata, _original_text) if _ESCAPE in text else metadata


def catalogue_text(text: str) -> str:
    """A text with U+0000 escaped, as the catalogue stores it."""
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")


def image_of(metadata: str) -> str | None:
    """The image that a document is, by its metadata as JSON: a path or a data text; None for a document of text."""
    if f'"{IMAGE_KEY}"' not in metadata:
        return None
    found = json.loads(metadata).get(IMAGE_KEY)
    return found if isinstance(found, str) else None


def _number(value: decimal.Decimal) -> int | float:
    if value.is_nan():
        return math.nan
    # Beyond this JSON cannot be written; making a whole number of 1E+999999999 would take hours.
    short = value.is_finite() and value.adjusted() < _MOST_DIGITS
    return int(value) if short and value == value.to_integral_value() else float(value)


def _of_numpy(value: Any) -> Any:
    if value.dtype.kind in "Mm":
        return [*value] if value.ndim else _of_date(value[()])
    found = value.tolist()
    if isinstance(found, np.floating):  # a longdouble, of which Python has none
        return float(found)
    is_json = isinstance(found, int | float | str | bool | list | np.generic | None)
    return found if is_json else json_value(found)


def _of_date(value: np.datetime64 | np.timedelta64) -> Any:
    """The text of a NumPy date; durations, and dates that Python has not, stay as they are, and are no JSON."""
    if np.isnat(value):
        return None
    # Python's dates have microseconds: tolist makes a number of a finer one.
    return json_value(value.astype("datetime64[us]").tolist()) if is_date(value) else value


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidInputError(f"{where} is nested more than {_DEEPEST} levels deep")
    value = json_value(value)
    if isinstance(value, str):
        return check_text(where, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{where} is {value}, which is not JSON; leave the key out, or give None")
        return value
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r}: keys of JSON objects are str")
            name = check_text(f"a key of {where}", key)
            plain[name] = _plain(item, f"{where}[{key!r}]", depth + 1)
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise InvalidInputError(f"{where} is a whole number of more than {_MOST_DIGITS} digits; store it as text")
    if value is not None and not isinstance(value, bool | int):
        raise InvalidInputError(
            f"{where} is {kind(value)}, which is not JSON; give texts, numbers, True, False, None, dates, and lists "
            "and dicts of them"
        )
    return value


def _dumps(metadata: dict[str, Any], where: str) -> str:
    try:
        return json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise InvalidInputError(f"{where} cannot be written as JSON: {error}") from error


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with every text changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _original_text(text: str) -> str:
    return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)
