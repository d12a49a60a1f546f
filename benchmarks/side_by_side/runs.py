"""Worker processes: the interpreter of each engine, builds, and rounds of searches."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side_by_side.corpus import Corpus
from side_by_side.engine import ENGINES

BENCHMARKS = Path(__file__).parents[1]
_TOLD = 8


class WorkerFailed(Exception):
    """A worker ended without a reply; the message says why."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs one engine.

    Attributes:
        name: name of the engine.
        module: see `engine.load`.
        role: see `engine.ENGINES`.
        python: interpreter of its environment.
    """

    name: str
    module: str
    role: str
    python: str

    def run(self, task: str, corpus: Corpus, folder: Path, threads: int, timeout: float) -> dict[str, Any]:
        """Run one worker, and return its reply.

        Raises:
            WorkerFailed: the worker failed, died, or took longer than `timeout` seconds.
        """
        folder.mkdir(parents=True, exist_ok=True)
        reply = folder.parent / f"{folder.name}.{task}.json"
        reply.unlink(missing_ok=True)
        paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [self.python, "-m", "side_by_side.worker", task, self.module, str(corpus.folder), str(folder)]
        try:
            done = subprocess.run(
                [*command, str(threads), str(reply)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkerFailed(f"{task} took longer than {timeout:.0f} s") from error
        except OSError as error:
            raise WorkerFailed(f"{self.python} does not run: {error}") from error
        if done.returncode or not reply.is_file():
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_TOLD:])
            raise WorkerFailed(f"{task} ended with {done.returncode}: {said}")
        return dict(json.loads(reply.read_text()))


def runners(names: Sequence[str], record: Path | None) -> Iterator[Runner | tuple[str, str]]:
    """For each engine, its runner, or its name and the reason why it cannot run.

    Args:
        names: names in `ENGINES`.
        record: peers.json of install_peers.py.
    """
    installed = json.loads(record.read_text()) if record else {}
    for name in names:
        module, group, role = ENGINES[name]
        if group is None:
            yield Runner(name, module, role, sys.executable)
        elif group not in installed:
            where = f"{record} does not know" if record else "no --peers: run install_peers.py for"
            yield name, f"{where} the environment {group!r}"
        elif error := installed[group]["packages"].get(name, {}).get("error"):
            yield name, f"not installed: {error}"
        else:
            yield Runner(name, module, role, installed[group]["python"])


def slug(name: str) -> str:
    """A folder's name for an engine."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def build_once(runner: Runner, corpus: Corpus, indexes: Path, threads: int, timeout: float) -> dict[str, Any]:
    """Build an index, or reuse one that was built with the same number of threads."""
    folder = indexes / slug(runner.name)
    done = indexes / f"{slug(runner.name)}.built.json"
    if done.is_file():
        earlier = dict(json.loads(done.read_text()))
        if earlier["threads"] == threads:
            return earlier
        done.unlink()
    if folder.exists():
        import shutil

        shutil.rmtree(folder)
    report = runner.run("build", corpus, folder, threads, timeout)
    done.write_text(json.dumps(report))
    return report


def rounds(
    ready: Sequence[Runner],
    search: Callable[[Runner], dict[str, Any]],
    repeats: int,
    failed: Callable[[Runner, str], None],
) -> Mapping[str, list[dict[str, Any]]]:
    """Run every engine's searches once per round; each round starts with another engine.

    Args:
        ready: the engines.
        search: runs the searches of one engine.
        repeats: number of rounds.
        failed: called for an engine that fails; it is not run again, and its reports are dropped.

    Returns:
        Each engine's reports, one per round.
    """
    reports: dict[str, list[dict[str, Any]]] = {runner.name: [] for runner in ready}
    for number in range(repeats):
        turn = number % max(1, len(ready))
        for runner in [*ready[turn:], *ready[:turn]]:
            if runner.name not in reports:
                continue
            try:
                reports[runner.name].append(search(runner))
            except WorkerFailed as error:
                del reports[runner.name]
                failed(runner, str(error))
    return reports
