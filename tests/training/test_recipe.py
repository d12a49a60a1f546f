"""Recipes: what is run, passed over, resumed and refused, with scripts of a few lines."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from fastlane_rag.cli import main

JOIN = """
import sys
from pathlib import Path

out, *parts = sys.argv[1:]
out = Path(out)
went_on = (out / "half").exists()
out.mkdir(parents=True, exist_ok=True)
(out / "half").touch()
with (out.parent / "calls").open("a") as calls:
    calls.write(out.name + ("+" if went_on else "") + " ")
if "broken" in parts and not Path(__file__).with_name("repaired").exists():
    raise ValueError("the part is broken")
texts = [(Path(part) / "text").read_text() if Path(part).is_dir() else part for part in parts]
(out / "text").write_text(" ".join(texts))
"""
STEPS = {"one": "join.py {out} {words} 1", "two": "join.py {out} {one} 'and two'", "other": "join.py {out} {words} 3"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script and what it reads."""
    (tmp_path / "join.py").write_text(JOIN)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "text").write_text("word")
    return tmp_path


def follow(folder: Path, *options: str, steps: dict[str, str] = STEPS, **changes: Any) -> Result:
    """Run a recipe in the folder; what ran is in `calls`."""
    words = {"path": "words", "files": ["text"], "get": "write one"}
    content = {"output": "out", "inputs": {"words": words}, "steps": steps} | changes
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return CliRunner().invoke(main, ["train", str(folder / "recipe.yaml"), *options])


def calls(folder: Path) -> list[str]:
    """The steps that ran since the last call; + where a step found what it had left."""
    file = folder / "out" / "calls"
    found = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return found


def refused(result: Result) -> str:
    """The one line that a command fails with."""
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_steps_run_once_in_order(folder: Path) -> None:
    """Each reads the folders that it names; what is complete is passed over."""
    result = follow(folder)
    assert result.exit_code == 0, result.stderr
    assert str(folder / "out" / "other") in result.stdout
    assert calls(folder) == ["one", "two", "other"]
    assert (folder / "out" / "two" / "text").read_text() == "word 1 and two"
    assert follow(folder).exit_code == 0
    assert calls(folder) == []


def test_a_changed_step_runs_again_with_what_uses_it(folder: Path) -> None:
    """And begins anew; a step that does not use it stays."""
    follow(folder)
    calls(folder)
    changed = STEPS | {"one": "join.py {out} {words} 4"}
    assert follow(folder, steps=changed).exit_code == 0
    assert calls(folder) == ["one", "two"]
    assert (folder / "out" / "two" / "text").read_text() == "word 4 and two"
    follow(folder, steps=changed | {"two": "join.py {out} {one} 5"})
    assert calls(folder) == ["two"]


def test_a_changed_input_or_a_removed_folder_runs_steps_again(folder: Path) -> None:
    """The contents of an input count, not its place."""
    follow(folder)
    calls(folder)
    (folder / "words").rename(folder / "moved")
    moved = {"inputs": {"words": {"path": "moved", "files": ["text"], "get": "write one"}}}
    follow(folder, **moved)
    assert calls(folder) == []
    (folder / "moved" / "text").write_text("another")
    follow(folder, **moved)
    assert calls(folder) == ["one", "two", "other"]
    assert (folder / "out" / "two" / "text").read_text() == "another 1 and two"
    (folder / "out" / "one").rename(folder / "gone")
    follow(folder, **moved)
    assert calls(folder) == ["one", "two"]


def test_a_failed_step_is_named_and_goes_on(folder: Path) -> None:
    """Later steps wait; run again, the step finds what it left, and earlier ones are passed over."""
    steps = STEPS | {"two": "join.py {out} {one} broken"}
    message = refused(follow(folder, steps=steps))
    assert "step two failed: ValueError: the part is broken (exit code 1" in message
    assert str(folder / "out" / "two.log") in message
    assert calls(folder) == ["one", "two"]
    (folder / "repaired").touch()
    assert follow(folder, steps=steps).exit_code == 0
    assert calls(folder) == ["two+", "other"]
    assert "Traceback" in (folder / "out" / "two.log").read_text()


def test_a_failed_step_whose_command_changed_begins_anew(folder: Path) -> None:
    """What it left belongs to another command."""
    follow(folder, steps=STEPS | {"two": "join.py {out} {one} broken"})
    calls(folder)
    assert follow(folder).exit_code == 0
    assert calls(folder) == ["two", "other"]


def test_an_interrupted_step_is_not_complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second step."""
    run = subprocess.run

    def interrupted(command: list[str], **options: Any) -> Any:
        if command[2].endswith("two"):
            raise KeyboardInterrupt
        return run(command, **options)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", interrupted)
        result = follow(folder)
    assert result.exit_code == 130
    assert "interrupted; in step two; the same command goes on with it" in result.stderr
    assert "two    to run: interrupted, goes on" in follow(folder, "--dry-run").stdout
    calls(folder)
    assert follow(folder).exit_code == 0
    assert calls(folder) == ["two", "other"]


def test_a_dry_run_lists_the_steps_and_runs_none(folder: Path) -> None:
    """Why each would run, also of those that come after one that would."""
    follow(folder)
    calls(folder)
    assert follow(folder, "--dry-run").stdout.splitlines() == ["one    done", "two    done", "other  done"]
    listed = follow(folder, "--dry-run", steps=STEPS | {"one": "join.py {out} {words} 4"}).stdout.splitlines()
    assert listed == ["one    to run: its command has changed", "two    to run: comes after one", "other  done"]
    assert calls(folder) == []


def test_a_missing_input_is_said_before_any_work(folder: Path) -> None:
    """With what to do; a dry run lists the steps first."""
    (folder / "words" / "text").unlink()
    steps = {"first": "join.py {out} 0"} | STEPS
    message = refused(follow(folder, steps=steps))
    assert f"words: {folder / 'words' / 'text'} missing; write one" in message
    assert not (folder / "out").exists()
    listed = follow(folder, "--dry-run", steps=steps)
    assert "one    to run" in listed.stdout
    assert refused(listed) == message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stepz": 1}, "stepz"),
        ({"inputs": {"words": {"path": "words", "files": ["text"], "get": "write one", "sha": 1}}}, "inputs.words.sha"),
        ({"steps": {"one": "join.py {out} {wordz}"}}, "steps.one: {wordz} is no input and no earlier step"),
        ({"steps": {"one": "join.py {out} {two}", "two": "join.py {out}"}}, "steps.one: {two} is no input"),
        ({"steps": {"words": "join.py {out}"}}, "steps.words: the name is taken"),
        ({"steps": {"../one": "join.py {out}"}}, "should match pattern"),
        ({"steps": {"one": "joined.py {out}"}}, "steps.one: there is no script"),
        ({"steps": {"one": 'join.py "{out}'}}, "steps.one"),
        ({"steps": {}}, "at least 1 item"),
    ],
    ids=["key", "input-key", "name", "later-step", "taken", "not-a-name", "script", "quote", "no-steps"],
)
def test_a_wrong_recipe_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    """What is wrong is named before any work."""
    assert words in refused(follow(folder, **changes))
    assert not (folder / "out").exists()


def test_what_a_recipe_did_not_make_is_left_alone(folder: Path) -> None:
    """A folder under the name of a step, and with --fresh an earlier run."""
    (folder / "out" / "two").mkdir(parents=True)
    (folder / "out" / "two" / "mine").touch()
    assert "this recipe did not make it" in refused(follow(folder))
    assert (folder / "out" / "two" / "mine").exists()
    assert calls(folder) == []
    assert follow(folder, output="new").exit_code == 0
    assert "holds steps of an earlier run" in refused(follow(folder, "--fresh", output="new"))


def test_a_config_without_steps_has_no_dry_run(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("output: out\ndata: {train: {peps: {path: peps}}}\n")
    result = CliRunner().invoke(main, ["train", str(tmp_path / "run.yaml"), "--dry-run"])
    assert result.exit_code == 2
    assert "--dry-run lists the steps of a recipe" in result.stderr
