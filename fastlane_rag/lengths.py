"""Texts, lists and objects of users: what is one, some texts at a time, and what was cut off in one warning a call."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

from fastlane_rag.errors import FastLaneWarning, InvalidInputError
from fastlane_rag.types import whole_number

__all__ = [
    "check_batch_size",
    "check_list",
    "check_max_document_tokens",
    "check_text",
    "check_texts",
    "chunks",
    "is_text",
    "kind",
    "one_warning",
    "plain",
    "warn_caller",
    "warn_of_documents",
    "warn_of_queries",
]

# Texts encoded at once: their rows are in memory together.
_TEXTS = 512
_CHARACTERS = 4 << 20
# Modules of this project, with its adapters, and what lies between them.
_OURS = ("fastlane_rag", "langchain_fastlane", "llama_index.retrievers.fastlane", "contextlib")

# Documents and tokens cut since a call began, and the limit; None where no call collects.
_counted: ContextVar[list[int] | None] = ContextVar("_counted", default=None)


def check_max_document_tokens(value: Any) -> int | None:
    """A whole number from 1, or None.

    Raises:
        InvalidInputError: anything else.
    """
    return _from_one(value, "max_document_tokens", "None for all")


def check_batch_size(value: Any) -> int | None:
    """A whole number from 1, or None to let the model choose.

    Raises:
        InvalidInputError: anything else.
    """
    return _from_one(value, "batch_size", "None")


def _from_one(value: Any, name: str, none: str) -> int | None:
    """A whole number from 1, or None, which a message calls `none`."""
    number = whole_number(value)
    if value is not None and (number is None or number < 1):
        raise InvalidInputError(f"{name} must be a whole number from 1, or {none}, not {value!r}")
    return number


def kind(value: Any) -> str:
    """Type and shortened value on one line, for messages."""
    shown = " ".join(repr(value).split())
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def plain(text: str) -> str:
    """The text as a str and no subclass of it: a member of an enum calls itself by another name."""
    return str.__str__(text)


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a str that can be written as UTF-8."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def check_text(where: str, value: Any) -> str:
    """Return the value, as a plain str, if it is one that can be written as UTF-8.

    Raises:
        InvalidInputError: it is not.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"{where} must be str, not {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{where} holds half of a surrogate pair at position {error.start}, which is no text"
        ) from error
    return plain(value)


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """A list of str that can be stored as UTF-8.

    Raises:
        InvalidInputError: a single str instead of a list, or an item that is no text.
    """
    return [check_text(f"{name}[{i}]", text) for i, text in enumerate(check_list(name, texts))]


def check_list(name: str, values: Any) -> list[Any]:
    """The values of any iterable as a list.

    Raises:
        InvalidInputError: a single value instead of several. Objects of pydantic are single, though they iterate over
            their fields.
    """
    single = isinstance(values, str | bytes | Mapping) or hasattr(type(values), "model_fields")
    if single or not isinstance(values, Iterable):
        raise InvalidInputError(f"{name} must be a list, not {kind(values)}; put a single value into [ ]")
    return list(values) if not isinstance(values, Sequence) else [*values]


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Some texts at a time: enough that texts of like length fill batches, few enough that their rows fit in memory."""
    first = characters = 0
    for position, text in enumerate(texts):
        if position > first and (position - first == _TEXTS or characters + len(text) > _CHARACTERS):
            yield texts[first:position]
            first, characters = position, 0
        characters += len(text)
    if first < len(texts):
        yield texts[first:]


@contextmanager
def one_warning() -> Iterator[None]:
    """While it lasts, documents that are cut are counted; at its end one warning tells of all of them."""
    if _counted.get() is not None:  # inside another: that one warns
        yield
        return
    counts = [0, 0, 0]
    token = _counted.set(counts)
    try:
        yield
    finally:
        _counted.reset(token)
        if counts[0]:
            _warn_of_documents(*counts)


def warn_of_documents(documents: int, tokens: int, limit: int) -> None:
    """Tell that `documents` texts had more than `limit` tokens, and that `tokens` of them are not encoded."""
    counts = _counted.get()
    if counts is None:
        _warn_of_documents(documents, tokens, limit)
    else:
        counts[:] = counts[0] + documents, counts[1] + tokens, limit


def warn_of_queries(queries: int, tokens: int, limit: int) -> None:
    """Tell that `queries` texts had more than `limit` tokens, and that `tokens` of them are not searched with."""
    warn_caller(
        f"{queries} {'query is' if queries == 1 else 'queries are'} longer than the model's {limit} tokens: the last "
        f"{tokens} tokens are not searched with. Ask in fewer words"
    )


def _warn_of_documents(documents: int, tokens: int, limit: int) -> None:
    warn_caller(
        f"{documents} {'document is' if documents == 1 else 'documents are'} longer than {limit} tokens, which is all "
        f"that is encoded of one: the last {tokens} tokens cannot be found. A larger max_document_tokens, or None, "
        "encodes them"
    )


def warn_caller(message: str) -> None:
    """Warn at the line outside this project that called."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, FastLaneWarning, stacklevel=level)
