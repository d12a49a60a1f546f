"""SQL conditions on one JSON value, the row `e` of SQLite's json_each: its `type` and `value`.

Values compare as JSON values of one type: numbers with numbers, text with text by code point, true and false only with
themselves, null only with null. Dates compare as instants, see `fastlane_rag.storage.instants`.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package alone

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from fastlane_rag.errors import FilterError, InvalidInputError
from fastlane_rag.lengths import check_text
from fastlane_rag.storage.instants import IS_INSTANT, SQL_INSTANT, instant
from fastlane_rag.storage.metadata import catalogue_text, is_date, json_value

__all__ = [
    "Compiled",
    "between",
    "compared",
    "contains",
    "equal",
    "join",
    "like",
    "negated",
    "of_kind",
    "one_of",
    "operand_kind",
]

# SQLite's parser stack holds 100 symbols, and its expressions are at most 1,000 terms deep.
_LONGEST = 100
# SQLite's own bound on patterns.
_LONGEST_PATTERN = 50_000
_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# Not so of a whole number beyond 64 bits: a float to SQLite, of type 'integer'.
_EXACT = "typeof(e.value) = e.type"
_BEYOND = 2**63
_KINDS = {
    "a number": "e.type IN ('integer', 'real')",
    "a text": "e.type = 'text'",
    "a date": f"e.type = 'text' AND {IS_INSTANT}",
    "true or false": "e.type IN ('true', 'false')",
    "null": "e.type = 'null'",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """An SQL condition on the table `documents`, or on a value `e`, and the values of its question marks.

    Attributes:
        sql: the condition.
        parameters: the values.
        docs: a SELECT of the numbers of the documents that meet it, where the table `fields` decides it alone.
        tests: functions of the metadata, and `DocumentFilter`s, that a document must pass besides.
    """

    sql: str
    parameters: tuple[Any, ...] = ()
    docs: str | None = None
    tests: tuple[Any, ...] = ()

    def about(self, row: str) -> str:
        """The condition on another row than `e`."""
        return re.sub(r"\be\.", f"{row}.", self.sql)


def join(parts: list[Compiled], glue: str, *, empty: str) -> Compiled:
    """Conditions joined by " AND " or " OR "; `empty` is the condition for none."""
    if not parts:
        return Compiled(empty)
    if len(parts) == 1:
        return parts[0]
    if len(parts) > _LONGEST:
        parts = [join(parts[i : i + _LONGEST], glue, empty=empty) for i in range(0, len(parts), _LONGEST)]
    sql = glue.join(part.sql for part in parts)
    return Compiled(f"({sql})", tuple(value for part in parts for value in part.parameters))


def negated(part: Compiled) -> Compiled:
    """The opposite of a condition that is never NULL."""
    return Compiled(f"(NOT {part.sql})", part.parameters)


def equal(operator: str, key: str, value: Any) -> Compiled:
    """e is this value; for a date, e is a text of the same instant."""
    if is_date(value):
        return Compiled(f"(e.type = 'text' AND {IS_INSTANT} AND {SQL_INSTANT} = ?)", (instant(value),))
    value = json_value(value)
    if value is None or isinstance(value, bool):
        return Compiled("(e.type = ?)", ({None: "null", True: "true", False: "false"}[value],))
    if isinstance(value, str):
        return Compiled("(e.type = 'text' AND e.value = ?)", (plain(operator, key, value),))
    if isinstance(value, int | float):
        return Compiled(f"({_EXACT} AND e.value = ?)", (plain(operator, key, value),))
    raise FilterError(f"{operator} on {key!r} takes a text, number, bool, date or None, not {value!r}")


def one_of(operator: str, key: str, values: Any) -> Compiled:
    """e is one of these values."""
    values = [value if is_date(value) else json_value(value) for value in _listed(operator, key, values)]
    texts = [plain(operator, key, v) for v in values if isinstance(v, str)]
    numbers = [plain(operator, key, v) for v in values if _is_number(v)]
    dates = [instant(v) for v in values if is_date(v)]
    rest = [v for v in values if not isinstance(v, str) and not _is_number(v) and not is_date(v)]
    parts = [equal(operator, key, v) for v in rest]
    # The list is one JSON parameter, so its length has no limit.
    among = "IN (SELECT value FROM json_each(?))"
    if texts:
        parts.append(Compiled(f"(e.type = 'text' AND e.value {among})", (json.dumps(texts),)))
    if numbers:
        parts.append(Compiled(f"({_EXACT} AND e.value {among})", (json.dumps(numbers),)))
    if dates:
        parts.append(Compiled(f"(e.type = 'text' AND {IS_INSTANT} AND {SQL_INSTANT} {among})", (json.dumps(dates),)))
    return join(parts, " OR ", empty="0")


def compared(operator: str, key: str, value: Any) -> Compiled:
    """e is greater or less than a number, a text or a date. A text that is a date in ISO 8601 is a date here."""
    moment = instant(value)
    if moment is not None:
        return Compiled(f"(e.type = 'text' AND {IS_INSTANT} AND {SQL_INSTANT} {_ORDER[operator]} ?)", (moment,))
    value = json_value(value)
    if isinstance(value, str):
        return Compiled(f"(e.type = 'text' AND e.value {_ORDER[operator]} ?)", (plain(operator, key, value),))
    if _is_number(value):
        condition = f"{_KINDS['a number']} AND e.value {_ORDER[operator]} ?"
        number = plain(operator, key, value)
        if -_BEYOND < value < _BEYOND:
            return Compiled(f"({condition})", (number,))
        return Compiled(f"({condition} AND ({_EXACT} OR e.value <> ?))", (number, number))
    raise FilterError(f"{operator} on {key!r} compares numbers or texts, not {value!r}")


def between(key: str, bounds: Any) -> Compiled:
    """e lies between two values, or is one of them."""
    limits = list(_listed("$between", key, bounds))
    if len(limits) != 2 or isinstance(bounds, Set):
        raise FilterError(f"$between on {key!r} takes two values, the least and the most, not {bounds!r}")
    parts = [compared(operator, key, limit) for operator, limit in zip(("$gte", "$lte"), limits, strict=True)]
    kinds = {operand_kind("$between", limit) for limit in limits}
    if len(kinds) > 1:
        raise FilterError(f"$between on {key!r} takes two numbers, two texts or two dates, not {bounds!r}")
    return join(parts, " AND ", empty="1")


def like(key: str, pattern: Any) -> Compiled:
    """e is a text that fits a pattern of SQL's LIKE. Case matters; a backslash takes the next character literally."""
    if not isinstance(pattern, str):
        raise FilterError(f"$like on {key!r} takes a text with % and _, not {pattern!r}")
    glob = re.sub(r"\\.|\\$|[%_*?\[]", _as_glob, str(plain("$like", key, pattern)), flags=re.DOTALL)
    if len(glob.encode()) > _LONGEST_PATTERN:
        raise FilterError(
            f"$like on {key!r} takes a pattern of up to {_LONGEST_PATTERN} bytes, not one of {len(glob.encode())}"
        )
    return Compiled("(e.type = 'text' AND e.value GLOB ?)", (glob,))


def _as_glob(found: re.Match[str]) -> str:
    text = found.group()
    if text in ("%", "_"):
        return {"%": "*", "_": "?"}[text]
    literal = text[1:] if len(text) > 1 else text
    return f"[{literal}]" if literal in ("*", "?", "[") else literal


def contains(key: str, values: Sequence[Any]) -> Compiled:
    """e is a list with one of these as an element, or a text with one of them as a substring."""
    element = one_of("$contains", key, values)
    sql = f"(e.type = 'array' AND EXISTS (SELECT 1 FROM json_each(e.value) AS x WHERE {element.about('x')})"
    texts = [catalogue_text(value) for value in values if isinstance(value, str)]
    if texts:
        within = "EXISTS (SELECT 1 FROM json_each(?) AS t WHERE instr(e.value, t.value) > 0)"
        return Compiled(f"{sql} OR e.type = 'text' AND {within})", (*element.parameters, json.dumps(texts)))
    return Compiled(sql + ")", element.parameters)


def of_kind(kind: str) -> Compiled:
    """e is of a kind that `operand_kind` names."""
    return Compiled(f"({_KINDS[kind]})")


def operand_kind(operator: str, value: Any) -> str | None:
    """What kind of value an operand compares with, in words; None for a list or an object."""
    if is_date(value) or (operator in (*_ORDER, "$between") and instant(value) is not None):
        return "a date"
    value = json_value(value)
    if isinstance(value, bool):
        return "true or false"
    if value is None:
        return "null"
    return "a text" if isinstance(value, str) else "a number" if _is_number(value) else None


def plain(operator: str, key: str, value: Any) -> str | int | float:
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


def _listed(operator: str, key: str, values: Any) -> Collection[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Collection):
        raise FilterError(f"{operator} on {key!r} takes a list of values, not {values!r}")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
