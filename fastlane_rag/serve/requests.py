"""What is known of the request at hand, wherever in its task."""

from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["Account", "account", "request_id"]


@dataclass(slots=True)
class Account:
    """What a request's log line and metrics say of it, filled in as it goes.

    Attributes:
        index: the index it asked.
        key: the name of its key.
        milliseconds: of each stage of its search.
    """

    index: str = ""
    key: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)


request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
account: ContextVar[Account | None] = ContextVar("account", default=None)
