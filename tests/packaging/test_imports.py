"""Importing is cheap, and imports run one way."""

import ast
import json
import re
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


# What each part may import of the project, besides itself and the modules that every part may. Every other import
# fails the test, also one for type checkers.
MAY_IMPORT = {
    "scoring": set(),
    "rendering": set(),
    "parameters": set(),
    "codecs": {"scoring", "parameters"},
    "device": {"scoring"},
    "vectors": {"scoring", "parameters"},
    "storage": {"codecs", "vectors", "scoring"},
    "upkeep": {"storage", "codecs", "vectors", "scoring"},
    "model": {"scoring", "rendering"},
    "explain": {"model", "scoring", "rendering"},
    # Of explain the type alone that a hit's explanation has: it shows itself, so it cannot stand below its rendering.
    "search": {"storage", "scoring", "vectors", "explain", "device"},
    "rerank": {"search", "model", "scoring"},
    "index": {"search", "upkeep", "storage", "codecs", "explain", "model"},
    "candidates": {"index", "search", "explain", "model", "storage"},
    "data": {"index"},
    "evaluation": {"index", "search", "storage", "model", "scoring", "data"},
    "training": {"evaluation", "index", "model", "scoring", "data"},
    "remote": {"index", "search", "storage", "explain", "rerank", "model"},
    "serve": {"remote", "index", "search", "rerank", "data", "rendering"},
    "cluster": {"serve", "index", "search", "storage", "explain", "model", "data"},
    "cli": {
        "cluster",
        "serve",
        "remote",
        "evaluation",
        "training",
        "index",
        "search",
        "upkeep",
        "codecs",
        "explain",
        "rendering",
        "model",
        "data",
    },
    "langchain_fastlane": {"index", "search", "storage", "rerank"},
    "llama_index": {"index", "search", "storage", "rerank"},
}
EVERYBODY = {"errors", "lengths", "progress", "strict_json", "types", "__version__"}
FRAMEWORKS = ("langchain", "llama_index")
ROOT = Path(__file__).parents[2]
BASES = {
    "fastlane_rag": PACKAGE.parent,
    "langchain_fastlane": ROOT / "integrations" / "langchain",
    "llama_index": ROOT / "integrations" / "llama_index",
    "benchmarks": ROOT / "benchmarks",
}


def module_of(file: Path, base: Path) -> str:
    """`.../fastlane_rag/index/__init__.py` -> `fastlane_rag.index`."""
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(file, base): file
    for name, base in BASES.items()
    for file in (base if name == "benchmarks" else base / name).rglob("*.py")
}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it, for type checkers alone as well."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
            if node.module == "fastlane_rag":
                found |= {fastlane_rag._HOMES[alias.name] for alias in node.names if alias.name in fastlane_rag._HOMES}
    return found


GRAPH = {module: imports(file) & set(MODULES) - {module} for module, file in MODULES.items()}


def part_of(module: str) -> str:
    """`fastlane_rag.storage.files` -> `storage`."""
    if MODULES[module].is_relative_to(BASES["benchmarks"]):
        return "benchmarks"
    names = module.split(".")
    return names[1] if names[0] == "fastlane_rag" and len(names) > 1 else names[0]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_one_way(part: str) -> None:
    found = {
        (module, other)
        for module, others in GRAPH.items()
        if part_of(module) == part
        for other in others
        if part_of(other) not in MAY_IMPORT[part] | EVERYBODY | {part, "fastlane_rag"}
    }
    assert found - DEMO == set()


# The demo shows both frameworks.
DEMO = {
    ("fastlane_rag.cli.demo", "langchain_fastlane"),
    ("fastlane_rag.cli.demo", "llama_index.retrievers.fastlane"),
}


def test_no_rule_allows_both_directions() -> None:
    """A part that imports another is never imported by it, directly or by way of others."""
    above = {part: set(below) for part, below in MAY_IMPORT.items()}
    for _ in above:
        above = {part: below.union(*(above[one] for one in below)) for part, below in above.items()}
    assert [part for part, below in above.items() if part in below] == []


def test_every_rule_is_used() -> None:
    """A listed pair must still be used by a file."""
    used = {(part_of(module), part_of(other)) for module, others in GRAPH.items() for other in others}
    assert {(part, one) for part, below in MAY_IMPORT.items() for one in below} - used == set()


def test_every_part_has_its_rule() -> None:
    """A new folder or module must be listed with what it may import."""
    parts = {part_of(module) for module, file in MODULES.items() if file.is_relative_to(PACKAGE)}
    assert parts - {"fastlane_rag", "__main__"} - EVERYBODY <= set(MAY_IMPORT)


def test_the_architecture_says_what_each_part_may_import() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| `([\w/.]+)` \|[^|]+\| ([^|]+) \|$", text, flags=re.MULTILINE)
    names = {"integrations/langchain": "langchain_fastlane", "integrations/llama_index": "llama_index"}
    said = {names.get(part, Path(part).stem): set() if below == "-" else set(below.split(", ")) for part, below in rows}
    assert said == MAY_IMPORT


def test_no_circle_of_files() -> None:
    """Following imports from a file never leads back to it, in the packages, the adapters and the benchmarks."""
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(GRAPH[module]):
                follow(other, (*way, module))
            done.add(module)

    for module in sorted(GRAPH):
        follow(module, ())
    assert len(done) == len(MODULES) > 150


def test_the_circle_check_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAPH, "fastlane_rag.types", {"fastlane_rag.index"})
    with pytest.raises(AssertionError, match=r"fastlane_rag\.index.* -> fastlane_rag\.types -> fastlane_rag\.index"):
        test_no_circle_of_files()


def test_frameworks_are_imported_by_the_demo_alone() -> None:
    importing = {
        module
        for module, file in MODULES.items()
        if file.is_relative_to(PACKAGE) and any(name.startswith(FRAMEWORKS) for name in imports(file))
    }
    assert importing <= {"fastlane_rag.cli.demo"}
