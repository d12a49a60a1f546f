"""README.md and ARCHITECTURE.md say what is so."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import pytest

from fastlane_rag.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def render_readme() -> ModuleType:
    """The script benchmarks/render_readme.py."""
    spec = importlib.util.spec_from_file_location("render_readme", ROOT / "benchmarks" / "render_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_of_the_results(render_readme: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    assert render_readme.render(readme) == readme, "run python benchmarks/render_readme.py"


def test_a_changed_figure_is_noticed(render_readme: ModuleType) -> None:
    """The check above would fail on a number typed by hand, and on a table without its place."""
    readme = (ROOT / "README.md").read_text()
    typed = readme.replace("<!-- /figures:quality -->", "| fastlane | .999 |\n<!-- /figures:quality -->")
    assert render_readme.render(typed) == readme
    with pytest.raises(ValueError, match=r"no block for .*quality"):
        render_readme.render("# FastLane RAG\n")
    with pytest.raises(ValueError, match="'speed'"):
        render_readme.render("<!-- figures:speed -->\n<!-- /figures:speed -->\n")


def test_the_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_commands_of_the_readme_exist_with_their_options() -> None:
    """Every line that starts with `fastlane` parses; nothing is run."""
    lines = re.findall(r"^ {4}(fastlane .*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = main.commands[name]
        words = ["corpus.jsonl" if one.endswith(".jsonl") else one for one in arguments]
        parser = command.make_parser(click.Context(command))
        parser.parse_args(words)


def test_every_path_of_the_architecture_exists() -> None:
    named = set(re.findall(r"`((?:fastlane_rag|integrations|tests|benchmarks)/[\w./]*)`", _architecture()))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_part_is_in_the_architecture() -> None:
    """A new folder or module of the package must be described."""
    parts = {
        path for path in (ROOT / "fastlane_rag").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    names = {path.name for path in parts} - {"__init__.py", "__main__.py"}
    assert not [name for name in names if name not in _architecture()]


def _architecture() -> str:
    return (ROOT / "ARCHITECTURE.md").read_text()
