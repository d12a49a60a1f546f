"""Which frameworks these tests ran on."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"langchain-core": "langchain-fastlane", "llama-index-core": "llama-index-retrievers-fastlane"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_framework_is_the_one_this_run_is_for(framework: str) -> None:
    """Within the distribution's bounds; `make` says by FASTLANE_FRAMEWORKS at which end of them."""
    requirements = map(Requirement, importlib.metadata.requires(FRAMEWORKS[framework]) or [])
    bounds = next(one.specifier for one in requirements if one.name == framework)
    installed = importlib.metadata.version(framework)
    end = os.environ.get("FASTLANE_FRAMEWORKS")
    assert installed in bounds
    if end == "floor":
        assert Version(installed) == Version(pinned("constraints-floor.txt", framework))
    elif end == "newest":
        assert Version(installed) >= Version(pinned("constraints.txt", framework))


def pinned(name: str, framework: str) -> str:
    found = re.search(rf"^{framework}==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    assert found, f"{name} says nothing of {framework}"
    return found[1]
