"""Shared by the commands: errors in one line, the terminal, common options."""

import codecs
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.errors import FastLaneError, FastLaneWarning, IndexNotFoundError
from fastlane_rag.rendering.terminal import json_text, printable
from fastlane_rag.search.options import SearchOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastlane_rag import FastLaneIndex, FastLaneModel


_PLAIN_WIDTH = 100
_LEAST_WIDTH = 20
_UNWRAPPED = 10_000
_INTERRUPTED = 130  # what shells expect after Ctrl-C


class Commands(click.Group):
    """A group whose commands fail with one line on stderr and exit code 1; --debug shows the traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command, turning errors into messages for the user."""
        if isinstance(sys.stdout, TextIOWrapper):  # characters that its encoding lacks become question marks
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            click.echo("; ".join(["interrupted", *map(printable, map(str, error.args))]), err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from error
        except FastLaneError as error:
            if context.params.get("debug"):
                raise
            way_out = "; fastlane index CORPUS --out DIR makes one" if isinstance(error, IndexNotFoundError) else ""
            raise click.ClickException(_one_line(error) + way_out) from error
        except (OSError, MemoryError, RuntimeError, ValueError) as error:
            # click's own Abort and Exit are RuntimeErrors too, and click handles a closed output pipe itself.
            ours = isinstance(error, click.Abort | click.exceptions.Exit | BrokenPipeError)
            if ours or context.params.get("debug"):
                raise
            raise click.ClickException(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split())) or type(error).__name__


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a search but `k`, each under its own name."""
    weighted: set[str] = set()

    @wraps(command)
    def called(**given: Any) -> Any:
        for name in weighted:
            weight = given.pop(f"{name}_weight")
            given[name] = given[name] if weight is None else weight
        return command(**given)

    for one in reversed([one for one in fields(SearchOptions) if one.name != "k"]):
        flag, said, default, parse = (
            one.name.replace("_", "-"),
            one.metadata["help"],
            one.default,
            one.metadata["parse"],
        )
        if isinstance(default, bool):
            if parse is not None:  # the flag stays one, so that what follows it is not taken for its value
                weighted.add(one.name)
                called = click.option(f"--{flag}-weight", callback=parsed_by(parse), help=f"{said} With this weight.")(
                    called
                )
            flag = f"no-{flag}" if default else flag
            called = click.option(
                f"--{flag}", one.name, is_flag=True, flag_value=not default, default=default, help=said
            )(called)
        elif parse is not None:
            called = click.option(f"--{flag}", one.name, callback=parsed_by(parse, default), help=said)(called)
    return called


def parsed_by(
    parse: Callable[[str], Any], default: Any = None
) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for options whose text is parsed by a function that raises ValueError."""

    def callback(context: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return default if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def quiet_libraries() -> None:
    """Hide the notices of the model libraries, without loading them; errors are still shown."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextmanager
def loading(what: str = "Loading the model") -> Iterator[None]:
    """Show on a terminal that something is going on."""
    with console(stderr=True).status(what):
        yield


def opened_model(model: str | None, **options: Any) -> "FastLaneModel":
    """The model of a command."""
    quiet_libraries()
    with loading():
        from fastlane_rag import FastLaneModel

        return FastLaneModel.from_pretrained(model, **options)


def opened_index(path: Path, model: str | None, device: str | None = None) -> "FastLaneIndex":
    """The index of a command that reads, with its model loaded.

    What is wrong with the index is told before the model's libraries are loaded, which takes seconds.
    """
    from fastlane_rag import FastLaneIndex

    quiet_libraries()
    FastLaneIndex.open(path, read_only=True).close()
    with loading():
        index = FastLaneIndex.open(path, model=model, device=device, read_only=True)
        _ = index.model
    return index


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show this project's warnings as one line on stderr, without the place in the code."""
    shown = warnings.showwarning

    def plain(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> None:
        if issubclass(category, FastLaneWarning):
            click.echo(f"Warning: {printable(str(message))}", err=True)
        else:
            shown(message, category, *place, **line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FastLaneWarning)
        warnings.showwarning = plain
        yield


def show_json(value: Any) -> None:
    """Print a value as JSON: in ASCII where standard output is not in UTF-8, so that no character is lost."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(json_text(value, indent=2, ascii=codecs.lookup(encoding).name != "utf-8"))


def console(*, stderr: bool = False, least_width: int = _LEAST_WIDTH, unwrapped: bool = False) -> "Console":
    """A console for the terminal. Where the output is no terminal, lines are not wrapped.

    Args:
        stderr: write to standard error instead of standard output.
        least_width: columns that a table needs; a narrower terminal wraps its lines.
        unwrapped: whether a row of a table is one line as well where the output is no terminal, however long.
    """
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    plain = _UNWRAPPED if unwrapped else _PLAIN_WIDTH
    made.width = max(made.width if made.is_terminal else plain, least_width)
    return made


def progress(description: str) -> "Progress":
    """A progress bar on stderr, hidden where stderr is no terminal; the caller adds the task."""
    from fastlane_rag.index.progress import progress_bar

    return progress_bar(description, console(stderr=True))
