"""Importing is cheap, and imports run one way."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastlane_rag

PACKAGE = Path(fastlane_rag.__file__).parent
HEAVY = ("torch", "faiss", "transformers", "sentence_transformers", "rich", "pydantic")
SECONDS = 0.3


def run_timed(code: str) -> tuple[float, list[str]]:
    """Run code in a fresh interpreter; best seconds of five, and the heavy modules it left loaded.

    Seconds of the processor, so that a busy machine fails nothing.
    """
    program = (
        "import json, sys, time\nstart = time.process_time()\n"
        f"{code}\n"
        "seconds = time.process_time() - start\n"
        f"print('RESULT', json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    results = []
    for _ in range(5):
        output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        results.append(json.loads(output.stdout.rsplit("RESULT", 1)[1]))
    return min(seconds for seconds, _ in results), results[0][1]


@pytest.mark.parametrize(
    "code",
    [
        "import fastlane_rag; dir(fastlane_rag); fastlane_rag.__version__",
        "from fastlane_rag.cli import main; main(['--help'], standalone_mode=False)",
        "from fastlane_rag.cli import main; main(['search', '--help'], standalone_mode=False)",
        "from fastlane_rag import errors, types, data",
    ],
    ids=["package", "help", "command-help", "light-modules"],
)
def test_cheap_to_import(code: str) -> None:
    seconds, loaded = run_timed(code)
    assert loaded == []
    assert seconds < SECONDS


def test_public_names_are_listed_and_unknown_ones_fail_plainly() -> None:
    assert {"FastLaneIndex", "FastLaneModel", "Hit"} <= set(dir(fastlane_rag))
    with pytest.raises(AttributeError, match="'FastLaneIndx'"):
        _ = fastlane_rag.FastLaneIndx  # type: ignore[attr-defined]


# What each part may import of the project, besides itself and what everybody may: errors and types.
MAY_IMPORT = {
    "scoring": set(),
    "data": set(),
    "explain": {"scoring"},
    "model": {"scoring", "explain"},
    "index": {"scoring", "model", "search", "explain"},
    "search": {"scoring", "model", "index"},
    "rerank": {"scoring", "model"},
    "training": {"scoring", "model", "index", "search", "data", "evaluation"},
    "evaluation": {"scoring", "model", "index", "search", "data"},
    "cli": {"scoring", "model", "index", "search", "data", "evaluation", "training", "rerank", "explain"},
}
EVERYBODY = {"errors", "types", "__version__"}
FRAMEWORKS = ("langchain", "llama_index")


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in it, but for type checkers alone."""
    found = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return found


def part_of(module: str) -> str:
    """`fastlane_rag.index.store` -> `index`; a public name counts as the part it lives in."""
    name = module.split(".")[1] if "." in module else ""
    return fastlane_rag._HOMES.get(name, f".{name}").split(".")[1]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part: str) -> None:
    files = [f for f in FILES if f.relative_to(PACKAGE).parts[0] in (part, f"{part}.py")]
    for file in files:
        ours = {part_of(name) for name in imports(file) if name.split(".")[0] == "fastlane_rag"}
        assert ours <= MAY_IMPORT[part] | EVERYBODY | {part}, file


def test_every_part_has_its_rule() -> None:
    """A new folder or module must say what it may import."""
    parts = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES}
    assert parts - {"__init__", "__main__", "errors", "types"} <= set(MAY_IMPORT)


def test_frameworks_are_imported_by_the_demo_alone() -> None:
    importing = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        if any(name.startswith(FRAMEWORKS) for name in imports(file))
    }
    assert importing <= {"cli/demo.py"}
