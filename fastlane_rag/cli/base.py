"""What the commands share: errors in one line, the terminal, common options."""

import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.errors import FastLaneError
from fastlane_rag.rendering.terminal import printable
from fastlane_rag.search.options import SearchOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastlane_rag import FastLaneIndex
    from fastlane_rag.types import Ingested


_PLAIN_WIDTH = 100
_FEW = 10


class Commands(click.Group):
    """A group whose commands fail with one line on stderr and exit code 1; --debug shows the traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command, turning errors into messages for the user."""
        try:
            return super().invoke(context)
        except FastLaneError as error:
            if context.params.get("debug"):
                raise
            raise click.ClickException(_one_line(error)) from error
        except (OSError, MemoryError, RuntimeError, ValueError) as error:
            # click's own Abort and Exit are RuntimeErrors and mean what they say, and it knows what to do when
            # nobody reads the output any more.
            ours = isinstance(error, click.Abort | click.exceptions.Exit | BrokenPipeError)
            if ours or context.params.get("debug"):
                raise
            raise click.ClickException(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split())) or type(error).__name__


class Rate:
    """How fast an index takes documents, on stderr. Begins where it is made, once the model is loaded."""

    def __init__(self, index: "FastLaneIndex") -> None:
        self._index = index
        self._library = getattr(index.model, "backend", None)
        self._tokens = index.stats().tokens
        self._start = time.perf_counter()

    def report(self, done: "Ingested") -> None:
        """Print the documents and tokens stored a second; nothing for a few, of which it would say little."""
        seconds = max(time.perf_counter() - self._start, 1e-6)
        documents = done.added + done.changed
        if documents < _FEW:
            return
        # The tokens that replaced documents had are not known any more.
        tokens = "" if done.changed else f", {(self._index.stats().tokens - self._tokens) / seconds:,.0f} tokens/s"
        speed = f"{documents / seconds:,.1f} documents/s{tokens}{f', by {self._library}' if self._library else ''}"
        click.echo(f"{documents} documents encoded in {seconds:.1f} s: {speed}", err=True)


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a search but `k`, each under its own name."""
    for one in reversed([one for one in fields(SearchOptions) if one.name != "k"]):
        flag, said, default = one.name.replace("_", "-"), one.metadata["help"], one.default
        if isinstance(default, bool):
            flag = f"no-{flag}" if default else flag
            option = click.option(
                f"--{flag}", one.name, is_flag=True, flag_value=not default, default=default, help=said
            )
        elif one.metadata["parse"] is not None:
            option = click.option(f"--{flag}", one.name, callback=parsed_by(one.metadata["parse"]), help=said)
        else:
            continue
        command = option(command)
    return command


def parsed_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for options whose text a function reads; the function raises ValueError."""

    def callback(context: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def quiet_libraries() -> None:
    """Keep the model libraries' own progress bars and notices off the terminal; errors still show."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def console(*, stderr: bool = False, least_width: int = 0) -> "Console":
    """The terminal; what is no terminal gets long lines instead of wrapped ones.

    Args:
        stderr: the standard error stream instead of the output.
        least_width: columns that a table needs; a narrower terminal wraps its lines.
    """
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    made.width = max(made.width, least_width) if made.is_terminal else max(_PLAIN_WIDTH, least_width)
    return made


def progress(description: str) -> "Progress":
    """A progress bar on stderr, silent where that is no terminal; the caller adds the task."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    err = console(stderr=True)
    return Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
