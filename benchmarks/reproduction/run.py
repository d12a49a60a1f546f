"""Shared by the parts: paths, and a results file that is filled step by step."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlane_rag import FastLaneModel
    from fastlane_rag.evaluation.cache import CorpusCache
    from fastlane_rag.evaluation.dataset import Dataset

FORMAT, VERSION = "fastlane-figures", 1
SEED = 17
# A query of exhaustive SumMaxSim over 100,000 documents takes seconds.
QUERIES = {"arxiv_title": 500}
_NUMBERS = re.compile(r"\[\s+((?:-?[\d.e+-]+|null),\s+)*(?:-?[\d.e+-]+|null)\s+\]")


@dataclass(frozen=True)
class Run:
    """One call of reproduce.py.

    Attributes:
        data: folder of datasets in BEIR's layout.
        cache: folder of encoded corpora.
        out: folder of results.
        limit: at most this many queries per dataset; None for all, except where `QUERIES` says otherwise.
        again: also measure steps that have results.
        model_name: what `FastLaneModel.from_pretrained` takes; None for the bundled model.
        chosen: datasets chosen by name, for the command in the results.
    """

    data: Path
    cache: Path
    out: Path
    limit: int | None = None
    again: bool = False
    model_name: str | None = None
    chosen: str | None = None

    def command(self, part: str) -> str:
        """The command that measures a part, without folders of this machine."""
        options = {"--datasets": self.chosen, "--limit": self.limit, "--model": self.model_name and "MODEL"}
        more = [f"{name} {value}" for name, value in options.items() if value is not None]
        return " ".join(["benchmarks/reproduce.py", part, *more])

    @cached_property
    def model(self) -> "FastLaneModel":
        """The model to measure."""
        from fastlane_rag import FastLaneModel

        return FastLaneModel.from_pretrained(self.model_name)

    def dataset(self, name: str, split: str = "test", limit: int | None = None) -> "Dataset":
        """A dataset with at most as many queries as this run may use."""
        from fastlane_rag.evaluation.dataset import load_dataset

        limits = [one for one in (self.limit, limit, QUERIES.get(name)) if one is not None]
        return load_dataset(self.data / name, split, limit=min(limits) if limits else None)

    def corpus(self, dataset: "Dataset") -> "CorpusCache":
        """The encoded corpus of a dataset."""
        from fastlane_rag.evaluation.cache import CorpusCache

        return CorpusCache(self.cache, dataset, self.model, progress)

    def results(self, part: str) -> "Results":
        """The results of a part."""
        from fastlane_rag.evaluation.cache import router_digest

        encoder = self.model.encoder
        header = {
            "format": FORMAT,
            "version": VERSION,
            "part": part,
            "limit": self.limit,
            "seed": SEED,
            "model": {
                "name": Path(self.model.name).name,
                "fingerprint": self.model.fingerprint,
                "query_router": router_digest(encoder.query_router),
                "document_router": router_digest(encoder.document_router),
                "query_length": self.model.max_query_length,
                "document_length": self.model.max_document_length,
            },
        }
        return Results(self.out / f"{part}.json", header, self.command(part), again=self.again)


class Results:
    """A JSON file with a header and named steps, each with the environment it was measured in.

    Steps of another model, limit or version are dropped. Each step is written at once, so that an interrupted run can
    continue.
    """

    def __init__(self, path: Path, header: dict[str, Any], command: str, *, again: bool) -> None:
        self.path = path
        self._command = command
        self._header = header
        self._again = again
        known = json.loads(path.read_text()) if path.is_file() else {}
        same = {name: known.get(name) for name in header} == header
        self.steps: dict[str, Any] = known["steps"] if same else {}

    def step(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of this name; measures it if there is none."""
        from fastlane_rag.evaluation.environment import environment

        if name in self.steps and not self._again:
            print(f"{self.path.name}: {name} is there already", flush=True)
            return dict(self.steps[name]["results"])
        print(f"{self.path.name}: {name}", flush=True)
        load, start = os.getloadavg()[0], time.perf_counter()
        results = rounded(measure())
        self.steps[name] = {
            "environment": {**environment().as_dict(), "command": self._command},
            "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
            "seconds": round(time.perf_counter() - start, 1),
            "results": results,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(dumps({**self._header, "steps": self.steps}))
        draft.replace(self.path)
        return dict(results)


def progress(items: Iterable[Any], doing: str) -> Iterable[Any]:
    """Passes items on, and prints the progress now and then, for logs."""
    start = said = time.perf_counter()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - said > 60:
            print(f"  {doing}: {count:,} after {now - start:,.0f} s", flush=True)
            said = now


def rounded(value: Any) -> Any:
    """The value with floats rounded to six significant digits, as more are noise; NaN becomes null."""
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(name): rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value


def dumps(value: Any) -> str:
    """Indented JSON, lists of numbers on one line."""
    text = json.dumps(value, indent=1, allow_nan=False)
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"
