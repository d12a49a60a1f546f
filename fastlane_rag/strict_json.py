"""JSON that comes from outside: what readers understand differently is refused."""

import json
from typing import Any, NoReturn

__all__ = ["deeper", "read_json"]

# Deeper than the metadata of a document may be (fastlane_rag.storage.metadata), in the objects around it.
_DEEPEST = 120


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON in UTF-8, has a key twice, of which Python's reader drops the first, half of a
            surrogate pair, or a number that JSON has not, or is nested too deeply. The message says so of it: "has the
            key 'a' twice".
    """
    try:
        whole = text if isinstance(text, str) else text.decode("utf-8-sig")
        found = json.loads(whole, parse_constant=_refuse_constant, object_pairs_hook=_object)
        if whole.count("[") + whole.count("{") > _DEEPEST and deeper(found, _DEEPEST):
            raise RecursionError
        if isinstance(text, str) or "\\ud" in whole or "\\uD" in whole:
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from error
    except UnicodeEncodeError as error:  # "\ud800" is legal JSON, but neither tokenizers nor databases take it as text
        raise ValueError("holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"has the key {twice!r} twice")
    return found


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in a value more than this many levels deep."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(deeper(one, levels - 1) for one in items if isinstance(one, dict | list)) if levels else bool(items)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is not JSON")
