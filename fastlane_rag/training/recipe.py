"""A recipe: scripts that run one after the other, each with a folder for its result, which later steps read.

``OUTPUT/NAME`` is the folder of a step, ``OUTPUT/NAME.log`` what it printed. ``OUTPUT/steps.json`` says of each step
how it was run: its command, and of each input and step that it uses which one that was. A step is run again when one of
these differs, and passed over when none does and it ended well.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from fastlane_rag.errors import DataError, ModelError
from fastlane_rag.training.config import Strict, checked, read_yaml

__all__ = ["Input", "Planned", "Recipe", "check_inputs", "load_recipe", "plan", "run_recipe"]

logger = logging.getLogger("fastlane_rag.training")

_OUT = "out"
_NAMED = re.compile(r"\{([^{}]*)\}")
_INTERRUPTED = "interrupted, goes on"

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
_Command = Annotated[list[str], BeforeValidator(lambda text: shlex.split(text) if isinstance(text, str) else text)]


class Input(Strict):
    """A folder that a recipe needs and does not make."""

    path: Path
    files: Annotated[list[Path], Field(min_length=1)]
    """The files of it that count, relative to it: they must be there, and a changed one runs the steps that use it."""
    get: str
    """How to get it, for the message when it is missing."""


class Recipe(Strict):
    """Scripts in order, and the folders that they start from."""

    output: Path
    inputs: dict[_Name, Input] = Field(default_factory=dict)
    steps: Annotated[dict[_Name, Annotated[_Command, Field(min_length=1)]], Field(min_length=1)]
    """The command of each step: a Python script and its arguments. ``{out}`` is the folder of the step, which the
    script makes; ``{NAME}`` is the folder of an input or of an earlier step. A script that was interrupted is run again
    with what it left in its folder: it goes on, or begins anew."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        known = {_OUT, *self.inputs}
        for name, command in self.steps.items():
            if name in known:
                raise ValueError(f"steps.{name}: the name is taken")
            if unknown := sorted(set(_names(command)) - known):
                raise ValueError(
                    f"steps.{name}: {{{unknown[0]}}} is no input and no earlier step; there are "
                    + ", ".join(f"{{{one}}}" for one in sorted(known))
                )
            known.add(name)
        return self


@dataclass(frozen=True, slots=True)
class Planned:
    """A step, and whether it has to be run.

    Attributes:
        name: of the step.
        why: why it is to be run; None where its result is complete.
    """

    name: str
    why: str | None


@dataclass(frozen=True, slots=True)
class _Record:
    """How a step was run.

    Attributes:
        command: as the recipe has it.
        uses: which contents of each input, and which run of each step.
        made: when it ended, which names the run; None while it has not.
    """

    command: list[str]
    uses: dict[str, str | None]
    made: str | None = None


def load_recipe(path: str | Path) -> Recipe:
    """Read a YAML file; relative paths of scripts, inputs and output in it are relative to the file.

    Raises:
        ModelError: the file cannot be read, a setting is unknown or wrong, or a script is missing; it is named.
    """
    path = Path(path)
    recipe, base = checked(Recipe, read_yaml(path), path), path.resolve().parent
    steps = {name: [str(base / script), *rest] for name, (script, *rest) in recipe.steps.items()}
    for name, command in steps.items():
        if not Path(command[0]).is_file():
            raise ModelError(f"{path}: steps.{name}: there is no script {command[0]}")
    inputs = {name: one.model_copy(update={"path": base / one.path}) for name, one in recipe.inputs.items()}
    return recipe.model_copy(update={"output": base / recipe.output, "inputs": inputs, "steps": steps})


def check_inputs(recipe: Recipe) -> None:
    """Check that nothing is missing before any work is done.

    Raises:
        DataError: files of inputs are missing; the message names them, and how to get them.
    """
    problems = []
    for name, one in recipe.inputs.items():
        if absent := [file for file in one.files if not (one.path / file).is_file()]:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            problems.append(f"{name}: {one.path / absent[0]}{more} missing; {one.get}")
    if problems:
        raise DataError(". ".join(problems))


def plan(recipe: Recipe) -> list[Planned]:
    """What running the recipe would do, step by step."""
    records, which = _records(recipe), _contents(recipe)
    planned = []
    for name in recipe.steps:
        why = _why(recipe, name, records, which)
        which[name] = None if why else records[name].made
        planned.append(Planned(name, why))
    return planned


def run_recipe(recipe: Recipe, *, resume: bool = True) -> None:
    """Run the steps that are not complete, in order; a line of the log says of each what is done.

    Args:
        recipe: what to run.
        resume: pass over what is complete; False refuses an output that holds steps of an earlier run.

    Raises:
        DataError: an input is missing; nothing has been run.
        ModelError: a step failed, or the folder of a step holds something that this recipe did not make.
    """
    check_inputs(recipe)
    records, which = _records(recipe), _contents(recipe)
    if records and not resume:
        raise ModelError(f"{recipe.output} holds steps of an earlier run; choose another output, or resume")
    for name in recipe.steps:
        if name not in records and (recipe.output / name).exists():
            raise ModelError(f"{recipe.output / name} is there, but this recipe did not make it; move it away")
    for number, (name, command) in enumerate(recipe.steps.items(), 1):
        place = f"{number}/{len(recipe.steps)} {name}"
        why = _why(recipe, name, records, which)
        if why:
            logger.info("%s: %s; its output is in %s", place, why, recipe.output / f"{name}.log")
            if why != _INTERRUPTED and (recipe.output / name).exists():
                shutil.rmtree(recipe.output / name)
            uses = {one: which[one] for one in _used(command)}
            _keep(recipe, records, name, _Record(_as_written(command), uses))
            started = datetime.now(UTC)
            _run(recipe, name, afresh=why != _INTERRUPTED)
            ended = datetime.now(UTC)
            _keep(recipe, records, name, _Record(_as_written(command), uses, ended.isoformat()))
            logger.info("%s: done in %d s", place, (ended - started).total_seconds())
        else:
            logger.info("%s: is done already", place)
        which[name] = records[name].made


def _why(recipe: Recipe, name: str, records: Mapping[str, _Record], which: Mapping[str, str | None]) -> str | None:
    """Why a step has to be run: None where it need not be."""
    record, command = records.get(name), recipe.steps[name]
    if record is None:
        return "not run yet"
    if record.command != _as_written(command):
        return "its command has changed"
    for one in _used(command):
        if which[one] is None:
            return f"comes after {one}"
        if record.uses.get(one) != which[one]:
            return f"{one} has changed"
    if record.made is None:
        return _INTERRUPTED
    return None if (recipe.output / name).is_dir() else "its folder is gone"


def _run(recipe: Recipe, name: str, *, afresh: bool) -> None:
    folders = {one: source.path for one, source in recipe.inputs.items()}
    folders |= {one: recipe.output / one for one in recipe.steps} | {_OUT: recipe.output / name}
    command = [_NAMED.sub(lambda found: str(folders[found[1]]), part) for part in recipe.steps[name]]
    file = recipe.output / f"{name}.log"
    try:
        with file.open("wb" if afresh else "ab") as log:
            # The user's own scripts, with this Python.
            code = subprocess.run(  # noqa: S603
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            ).returncode
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"in step {name}; the same command goes on with it") from None
    if code:
        last = file.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2] or "it printed nothing"
        raise ModelError(
            f"step {name} failed: {last} (exit code {code}; all it printed: {file}); run it again to go on"
        )


def _names(command: list[str]) -> Iterator[str]:
    for part in command:
        yield from _NAMED.findall(part)


def _used(command: list[str]) -> list[str]:
    """The inputs and steps that a command names."""
    return [name for name in dict.fromkeys(_names(command)) if name != _OUT]


def _as_written(command: list[str]) -> list[str]:
    """The command without the place of its script, which may move with the recipe."""
    return [Path(command[0]).name, *command[1:]]


def _contents(recipe: Recipe) -> dict[str, str | None]:
    """SHA-256 over the files of each input; None where one is missing."""
    found: dict[str, str | None] = {}
    for name, one in recipe.inputs.items():
        whole = hashlib.sha256()
        try:
            for file in one.files:
                with (one.path / file).open("rb") as stream:
                    whole.update(hashlib.file_digest(stream, "sha256").digest())
            found[name] = whole.hexdigest()
        except OSError:
            found[name] = None
    return found


def _records(recipe: Recipe) -> dict[str, _Record]:
    """How the steps in the output were run.

    Raises:
        ModelError: the file that says so is damaged.
    """
    file = recipe.output / "steps.json"
    if not file.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {name: _Record(**record) for name, record in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged ({error}); choose another output") from error


def _keep(recipe: Recipe, records: dict[str, _Record], name: str, record: _Record) -> None:
    records[name] = record
    recipe.output.mkdir(parents=True, exist_ok=True)
    file = recipe.output / "steps.json"
    part = file.with_suffix(".part")
    part.write_text(json.dumps({one: asdict(kept) for one, kept in records.items()}, indent=1), encoding="utf-8")
    part.replace(file)
