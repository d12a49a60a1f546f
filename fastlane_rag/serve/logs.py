"""Log lines as JSON objects, or as text, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from fastlane_rag.rendering.terminal import printable

__all__ = ["log_to_stderr"]


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= getattr(record, "request", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request = getattr(record, "request", {})
        told = " ".join(f"{name}={value}" for name, value in request.items() if value not in (None, ""))
        return printable(f"{super().format(record)} {told}".rstrip())


def log_to_stderr(form: Literal["json", "text"]) -> None:
    """Send all log lines of this process to standard error.

    Args:
        form: "json" for machines, an object a line; "text" for people.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # each request has its own line already
    _quiet_libraries()
    for name in ("httpx", "httpcore", "sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _quiet_libraries() -> None:
    """Hide the progress bars of the model libraries, which are no log lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
