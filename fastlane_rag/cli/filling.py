"""Shared by the ways to fill an index: opening it, how fast it takes documents, and what is told at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from fastlane_rag.cli.base import loading, plain_warnings, quiet_libraries

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex
    from fastlane_rag.index.options import IndexKeywords
    from fastlane_rag.types import Ingested

_FEW = 10


@contextmanager
def filling(out: Path, **options: "Unpack[IndexKeywords]") -> Iterator["FastLaneIndex"]:
    """The index at `out`, opened or created, with its model loaded. An interruption says what it holds."""
    from fastlane_rag import FastLaneIndex

    quiet_libraries()
    with loading():
        target = FastLaneIndex.open_or_create(out, **options)
    with target, plain_warnings():
        _release_queries(target)
        try:
            yield target
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"{out} holds {len(target)}, the same command goes on from there") from error


def _release_queries(index: "FastLaneIndex") -> None:
    """Give back the memory of the encoder of queries, a tenth of all: nothing is asked while an index is filled."""
    from fastlane_rag.upkeep.memory import give_back

    states = getattr(getattr(index.model, "encoder", None), "states", None)
    if states is not None:
        states.release("query")
        give_back()


def counts(done: "Ingested") -> str:
    """What became of passages, for people."""
    return f"{done.added} of them new, {done.changed} changed, {done.unchanged} stored already"


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
