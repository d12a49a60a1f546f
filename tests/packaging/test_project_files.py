"""Changelog, citation, workflows, hooks and links agree with the project. Needs PyYAML alone, so CI runs it first."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import fastlane_rag

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("integrations/langchain", "integrations/llama_index")
PAGES = (
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("integrations/*/README.md"),
    ROOT / "llms.txt",
    ROOT / "examples/README.md",
    ROOT / "fastlane_rag/model/default/README.md",
)
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def project(folder: str) -> dict[str, Any]:
    """The table [project] of a distribution."""
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return table


def test_the_changelog_is_of_this_version() -> None:
    """The first heading is Unreleased or this version with its date; sections are those of Keep a Changelog."""
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *others = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    release = r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d"
    assert first == "[Unreleased]" or first.startswith(f"[{fastlane_rag.__version__}] - ")
    assert not [heading for heading in others if not re.fullmatch(release, heading)]
    assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) <= SECTIONS


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"] == "FastLane RAG"
    assert citation["authors"] == [{"name": "fastlane-rag contributors"}]
    assert citation["version"] == fastlane_rag.__version__
    assert citation["license"] == project(".")["license"]
    assert [one["url"] for one in citation["references"]] == ["https://arxiv.org/abs/2601.06389"]


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_all_distributions_have_one_version(folder: str) -> None:
    assert project(folder)["version"] == fastlane_rag.__version__


def test_ci_tests_the_versions_of_python_that_are_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    prefix = "Programming Language :: Python :: 3."
    promised = [one.rsplit(" ", 1)[1] for one in project(".")["classifiers"] if one.startswith(prefix)]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == promised
    assert set(jobs["smoke"]["strategy"]["matrix"]["python"]) <= set(promised)


def test_the_hooks_run_the_pinned_versions() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    needed = [package for hook in hooks["hooks"] for package in hook["additional_dependencies"]]
    assert needed
    assert not [package for package in needed if package not in pins]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_linked_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#]+)", text)
    assert not [link for link in links if not page.parent.joinpath(link).exists()]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = (re.sub(r"[`*]", "", one).strip().lower() for one in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE))
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_linked_anchors_exist(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?![a-z]+:)([^)#]*\.md|)#([^)]+)\)", text)
    assert not [one for one in links if one[1] not in anchors(page.parent / one[0] if one[0] else page)]


def test_every_page_is_on_the_map() -> None:
    """A new page of docs/ is in llms.txt."""
    text = (ROOT / "llms.txt").read_text()
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text]
