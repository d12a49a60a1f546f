"""A progress bar over documents, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["documents_bar"]


@contextmanager
def documents_bar(description: str, total: int | None, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """Show how many documents are done, and how long the rest takes.

    Args:
        description: what is going on.
        total: documents there are; None when nobody knows, which leaves the time out.
        visible: False shows nothing.

    Yields:
        A function to call with the number of documents done since its last call.
    """
    if not visible:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, advance=count)
