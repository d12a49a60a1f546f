"""Where the time of one query goes: timers around the functions that do its parts, put in place from outside."""

import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

Target = tuple[Any, str]
"""An object and the name of its attribute that is a function."""


def target(path: str) -> Target:
    """What "module:name.name" names.

    Raises:
        ImportError, AttributeError: there is no such thing (any more).
    """
    module, _, names = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = names.split(".")
    for name in outer:
        owner = getattr(owner, name)
    getattr(owner, last)
    return owner, last


class Stages:
    """Seconds by stage. A stage inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        @functools.wraps(work)
        def run(*arguments: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                whole = time.perf_counter() - start
                self.seconds[stage] += whole - self._inside.pop()
                if self._inside:
                    self._inside[-1] += whole

        return run

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


@contextmanager
def counted(stages: Sequence[tuple[str, Target]]) -> Iterator[Stages]:
    """Count what these functions take, as long as the context lasts."""
    counter = Stages()
    with ExitStack() as stack:
        for stage, (owner, name) in stages:
            own = name in vars(owner)
            original = getattr(owner, name)
            setattr(owner, name, counter.timed(stage, original))
            if own:
                stack.callback(setattr, owner, name, original)
            else:
                stack.callback(delattr, owner, name)
        yield counter
