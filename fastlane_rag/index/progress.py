"""Progress bars on stderr, with a rate and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlane_rag.progress import listening

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["documents_bar", "progress_bar"]


def progress_bar(description: str, console: Console | None = None) -> Progress:
    """A bar that moves from the start and is gone at the end; the caller adds the task.

    Args:
        description: what is going on; "{task.description}" shows that of the task.
        console: where to show it, hidden where that is no terminal; None for stderr.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.1f}/s")

    shown = console or Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=shown,
        transient=shown.is_terminal,
        disable=console is not None and not shown.is_terminal,
    )


@contextmanager
def documents_bar(description: str, total: int | None, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show how many documents are done, how many a second, and how long the rest takes.

    Args:
        description: what is going on.
        total: documents there are; None when nobody knows, which leaves the time out.
        visible: False shows nothing.

    Yields:
        A function to call with the number of documents done since its last call. In between, the bar moves with what
        the model encodes.
    """
    if not visible:
        yield lambda count: None
        return
    done = ahead = 0
    with progress_bar(description) as bar:
        task = bar.add_task("", total=total)

        def encoded(count: int) -> None:
            nonlocal ahead
            ahead += count
            bar.update(task, completed=done + ahead)

        def finished(count: int) -> None:
            nonlocal done, ahead
            done, ahead = done + count, 0
            bar.update(task, completed=done)

        with listening(encoded):
            yield finished
