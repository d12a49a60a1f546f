"""The time of each stage of a query, by timers that are put around its functions from outside."""

import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

Target = tuple[Any, str]
"""An object, and the name of its attribute that is a function."""


def target(path: str) -> Target:
    """What "module:name.name" names.

    Raises:
        ImportError, AttributeError: it does not exist (any more).
    """
    module, _, names = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = names.split(".")
    for name in outer:
        owner = getattr(owner, name)
    getattr(owner, last)
    return owner, last


class Stages:
    """Seconds by stage. The time of a stage inside another one does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with a timer."""

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
        """The seconds by stage since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


@contextmanager
def counted(stages: Sequence[tuple[str, Target]]) -> Iterator[Stages]:
    """Time these functions within the context."""
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
