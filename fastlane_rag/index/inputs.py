"""What users hand to an index, checked before anything is encoded or stored."""

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastlane_rag.errors import InvalidInputError

__all__ = ["Entry", "check_count", "check_ids", "check_texts", "metadata_json", "prepare"]

# SQLite's own JSON functions give up at 1,000 levels.
_DEEPEST = 100

Entry = tuple[str, str, str]
"""A document about to be stored: id, text, metadata as JSON."""


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
    given: list[str | None] = [None] * len(texts) if ids is None else _sequence("ids", ids)
    if len(given) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts but {len(given)} ids")
    dicts: list[Any] = [None] * len(texts) if metadatas is None else _sequence("metadatas", metadatas)
    if len(dicts) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts but {len(dicts)} metadatas")
    final = [uuid.uuid4().hex if id_ is None else _text(f"ids[{i}]", id_) for i, id_ in enumerate(given)]
    entries: dict[str, Entry] = {}
    for i, (id_, text) in enumerate(zip(final, texts, strict=True)):
        entries[id_] = (id_, text, metadata_json(dicts[i], f"metadatas[{i}] (id {id_!r})"))
    return final, list(entries.values())


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """A list of str that can be stored as UTF-8.

    Raises:
        InvalidInputError: a single str instead of a list, or an item that is no text.
    """
    return [_text(f"{name}[{i}]", text) for i, text in enumerate(_sequence(name, texts))]


def check_ids(ids: Iterable[str]) -> list[str]:
    """A list of ids without repetitions, in order.

    Raises:
        InvalidInputError: a single str instead of a list, or an item that is no text.
    """
    return list(dict.fromkeys(_text(f"ids[{i}]", id_) for i, id_ in enumerate(_sequence("ids", ids))))


def check_count(k: Any, name: str = "k") -> int:
    """A whole number, 0 or more.

    Raises:
        InvalidInputError: anything else.
    """
    try:
        number = int(k.__index__())
    except (AttributeError, TypeError):
        number = -1
    if number < 0 or isinstance(k, bool):
        raise InvalidInputError(f"{name} must be a whole number, 0 or more, not {k!r}")
    return number


def metadata_json(metadata: Any, where: str = "metadata") -> str:
    """The JSON text of a metadata dictionary; None is an empty one.

    Raises:
        InvalidInputError: the part that is not JSON.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"{where} must be a dict, not {_kind(metadata)}")
    _check_json(metadata, where, 0)
    try:
        return json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:  # a whole number of more than 4,300 digits
        raise InvalidInputError(f"{where} cannot be written as JSON: {error}") from error


def _check_json(value: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidInputError(f"{where} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        _text(where, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{where} is {value}, which is not JSON")
    elif isinstance(value, dict) or (depth == 0 and isinstance(value, Mapping)):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"{where} has the key {key!r}: keys of JSON objects are str")
            _text(f"a key of {where}", key)
            _check_json(item, f"{where}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]", depth + 1)
    elif value is not None and not isinstance(value, bool | int):
        raise InvalidInputError(f"{where} is {_kind(value)}, which is not JSON")


def _sequence(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{name} must be a list, not {_kind(values)}; put a single value into [ ]")
    return list(values) if not isinstance(values, Sequence) else [*values]


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{where} must be str, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{where} holds half of a surrogate pair at position {error.start}, which is no text"
        ) from error
    return value


def _kind(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"
