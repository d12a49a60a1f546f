"""What the commands share: errors in one line, the terminal, common options."""

import json
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.errors import FastLaneError
from fastlane_rag.rendering.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastlane_rag.types import RouteK

ROUTE_K_HELP = "Query tokens to gather with: a number, 'auto' or 'all'. Default: what the model prefers."

_PLAIN_WIDTH = 100


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


def parse_route_k(context: click.Context, option: click.Parameter, value: str | None) -> "RouteK | None":
    """Callback of --route-k: a number above 0, "auto" or "all"."""
    if value is None:
        return None
    if value == "auto":
        return "auto"
    if value == "all":
        return "all"
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is neither a number above 0, nor 'auto', nor 'all'")
    return number


def parse_object(context: click.Context, option: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Callback of options that take a JSON object."""
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter(f"{value!r} is no JSON object")
    return parsed


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
