"""JSON Lines files of passages and queries, read line by line, with errors that name the line."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from fastlane_rag.errors import DataError
from fastlane_rag.lengths import unique_keys

_GZIP_MAGIC = b"\x1f\x8b"
_ID_KEYS = ("_id", "id")
# Bytes of the longest line. A few megabytes of gzip can hold a line of many gigabytes; no document is this long.
_LONGEST = 64 << 20
# The depth that an index stores: see fastlane_rag.storage.metadata.
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Passage:
    """One document of a corpus file.

    Attributes:
        id: `_id` (or `id`) of the line; whole numbers become text.
        title: may be empty.
        text: the body, without the title.
        metadata: the object under `metadata`, if there is one, and every other key of the line.
    """

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The text to index: the title, if there is one, on a line above the body."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def read_records(
    path: str | Path, *, on_bad: Callable[[DataError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for each line of a JSON Lines file that is not blank, gzip or plain.

    Args:
        path: the file; gzip is recognised by its first bytes, not its name.
        on_bad: called with the error of a line that is no JSON object, and the line is skipped.
            None raises the error.

    Raises:
        DataError: the file cannot be read, or a line is bad and `on_bad` is None.
    """
    path = Path(path)
    report = on_bad or _raise
    try:
        with _open(path) as lines:
            for number, line in enumerate(_lines(lines), 1):
                if line is not None and not line.strip():
                    continue
                try:
                    yield number, _parse(line)
                except ValueError as error:
                    report(DataError(f"{path}, line {number}: {error}"))
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_passages(path: str | Path, *, on_bad: Callable[[DataError], None] | None = None) -> Iterator[Passage]:
    """Yield the passages of a corpus file, in the order of its lines, reading one line at a time.

    Each line is an object with `_id` or `id`, `text`, optionally `title`. The object under `metadata`, if there is
    one, becomes the metadata, and other keys are added to it. Of lines with the same id the first holds the passage,
    and the others are bad.

    Args:
        path: the file, JSON Lines, gzip or plain.
        on_bad: called with the error of a line that holds no passage, and the line is skipped.
            None raises the error.

    Raises:
        DataError: the file cannot be read, or a line is bad and `on_bad` is None.
    """
    report = on_bad or _raise
    lines: dict[str, int] = {}
    for number, record in read_records(path, on_bad=on_bad):
        try:
            passage = _passage(record)
            if (first := lines.setdefault(passage.id, number)) != number:
                raise ValueError(f"its id {passage.id!r} is that of line {first} already")
        except ValueError as error:
            report(DataError(f"{path}, line {number}: {error}"))
        else:
            yield passage


def parse_passage(line: bytes) -> Passage:
    """The passage of one line, as `read_passages` reads it.

    Raises:
        ValueError: the line holds no passage.
    """
    return _passage(_parse(line))


def record_id(record: dict[str, Any]) -> str:
    """The id of a line: `_id`, or else `id`.

    Raises:
        ValueError: neither key holds text or a whole number.
    """
    key = next((key for key in _ID_KEYS if key in record), None)
    if key is None:
        raise ValueError("no '_id' and no 'id'")
    value = record[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"'{key}' must be text or a whole number, not {_show(value)}")
    return value


def record_text(record: dict[str, Any], key: str, default: str | None = None) -> str:
    """The text under a key of a line; null and a missing key give the default.

    Raises:
        ValueError: the value is no text, or is missing and there is no default.
    """
    value = record.get(key)
    if value is None:
        value = default
    if value is None:
        raise ValueError(f"no '{key}'")
    if not isinstance(value, str):
        raise ValueError(f"'{key}' must be text, not {_show(value)}")
    return value


def _passage(record: dict[str, Any]) -> Passage:
    of_id = next((key for key in _ID_KEYS if key in record), None)
    rest = {key: value for key, value in record.items() if key not in (of_id, "title", "text")}
    if isinstance(rest.get("metadata"), dict):
        rest = rest.pop("metadata") | rest
    if _deeper(rest, _DEEPEST):
        raise ValueError(f"its metadata is nested more than {_DEEPEST} levels deep")
    return Passage(
        id=record_id(record),
        title=record_text(record, "title", default=""),
        text=record_text(record, "text"),
        metadata=rest,
    )


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in a value more than this many levels deep."""
    if levels < 0:
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_deeper(item, levels - 1) for item in items)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _lines(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | None]:
    """Yield the lines of a file; None for a line that is too long, which is skipped without being read as a whole."""
    while line := file.readline(_LONGEST + 1):
        if len(line) <= _LONGEST or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        yield None


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise ValueError(f"longer than {_LONGEST >> 20} MiB")
    try:
        record = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=unique_keys)
        # A lone surrogate ("\ud800") is legal JSON, but neither tokenizers nor databases take it as text.
        # 1e999 is read as infinity, which JSON cannot write.
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from error
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"must be a JSON object, not {_show(record)}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _raise(error: DataError) -> NoReturn:
    raise error


def _show(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
