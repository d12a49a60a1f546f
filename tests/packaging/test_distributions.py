"""The three distributions build, carry what they need and install side by side."""

import compileall
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "fastlane_rag": (ROOT, "fastlane_rag"),
    "langchain_fastlane": (ROOT / "integrations/langchain", "langchain_fastlane"),
    "llama_index_retrievers_fastlane": (ROOT / "integrations/llama_index", "llama_index"),
}
LEFT_OUT = ("__pycache__", ".pyc", ".egg-info", "scoring/native/src/")
LIBRARIES = (".so", ".dylib", ".dll")
ISOLATED = [] if not any(map(shutil.which, ("c++", "g++", "clang++"))) else ["--no-isolation"]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; its output is in the failure."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of each distribution and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    for source, _ in SOURCES.values():
        run(sys.executable, "-m", "build", *ISOLATED, "--outdir", folder, source)
    return folder


def contents(source: Path, package: str) -> set[str]:
    """The files of a package as they lie in the source tree, without what was compiled there."""
    files = (file for file in (source / package).rglob("*") if file.is_file() and file.suffix not in LIBRARIES)
    names = {file.relative_to(source).as_posix() for file in files}
    return {name for name in names if not any(part in name for part in LEFT_OUT)}


@pytest.mark.parametrize("name", SOURCES)
def test_wheel_and_sdist_hold_the_whole_package(dist: Path, name: str) -> None:
    """Model, sample data and py.typed included; nothing of tests or benchmarks."""
    wanted = contents(*SOURCES[name])
    assert any(file.endswith("py.typed") for file in wanted)
    (wheel,) = dist.glob(f"{name}-*.whl")
    (sdist,) = dist.glob(f"{name}-*.tar.gz")
    in_wheel = {file for file in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in file}
    compiled = {file for file in in_wheel if file.endswith(LIBRARIES)}
    assert in_wheel - compiled == wanted
    assert len(compiled) == (name == "fastlane_rag")
    with tarfile.open(sdist) as archive:
        in_sdist = {file.split("/", 1)[1] for file in archive.getnames() if "/" in file}
    assert wanted <= in_sdist
    assert {"LICENSE", "README.md", "pyproject.toml"} <= in_sdist
    assert not any(file.startswith(("tests", "benchmarks", ".ci")) for file in in_sdist)
    assert not any(file.endswith(LIBRARIES) for file in in_sdist)


def test_the_wheels_install_together_into_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """No dependency is installed, so this is what imports without any: the light top level and the sample."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wheels = sorted(dist.glob("*.whl"))
    assert len(wheels) == len(SOURCES)
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", *wheels)
    program = (
        "import importlib.util, fastlane_rag, fastlane_rag.data as data\n"
        "assert sum(1 for _ in data.read_passages(data.sample_path())) > 1000\n"
        "for name in ('langchain_fastlane', 'llama_index.retrievers.fastlane'):\n"
        "    assert importlib.util.find_spec(name).origin.endswith('__init__.py'), name\n"
        "print(fastlane_rag.__file__)"
    )
    assert str(venv) in run(python, "-c", program, cwd=tmp_path)
    assert shutil.which("fastlane", path=python.parent)


def test_llama_index_stays_a_namespace(dist: Path) -> None:
    """`llama_index` and `llama_index.retrievers` belong to several distributions: no __init__.py of ours."""
    (wheel,) = dist.glob("llama_index_retrievers_fastlane-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "llama_index/retrievers/fastlane/__init__.py" in names
    assert not {"llama_index/__init__.py", "llama_index/retrievers/__init__.py"} & names


SEARCH = """
from fastlane_rag import FastLaneIndex
from fastlane_rag.scoring.native import kernels
import fastlane_rag
assert fastlane_rag.__file__.startswith(FOLDER), fastlane_rag.__file__
with FastLaneIndex.create() as index:
    index.add(["Cats purr.", "Dogs bark."])
    print(index.search("what does a cat do?", k=1)[0].text, kernels.available())
"""


def searched(place: Path, tmp_path: Path, **environment: str) -> str:
    """What a search prints with the package found in this place alone."""
    code = f"import sys; sys.path.insert(0, {str(place)!r}); FOLDER = {str(place)!r}\n{SEARCH}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout or done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed, without caches."""
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "src")
    shutil.copytree(ROOT / "fastlane_rag", folder / "fastlane_rag", ignore=ignored)
    return folder


def test_a_package_of_compiled_python_alone_searches(source: Path, tmp_path: Path) -> None:
    """Some images keep no sources: nothing may read or compile them while it runs."""
    place = tmp_path / "compiled"
    shutil.copytree(source, place)
    assert compileall.compile_dir(place, quiet=1, legacy=True)
    for file in place.rglob("*.py"):
        file.unlink()
    assert searched(place, tmp_path) == "Cats purr. True\n"


def test_a_package_in_a_zip_file_searches(source: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", source)
    assert searched(Path(archive), tmp_path, FASTLANE_CACHE=str(tmp_path / "cache")) == "Cats purr. True\n"


@pytest.mark.parametrize("name", ["NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR"])
def test_what_is_meant_for_numba_changes_nothing(source: Path, tmp_path: Path, name: str) -> None:
    """Kernels were compiled by numba once."""
    assert searched(source, tmp_path, **{name: "1"}) == "Cats purr. True\n"
