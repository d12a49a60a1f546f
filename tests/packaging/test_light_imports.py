"""The adapters import the heavy libraries when something is first encoded, and not before."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sentence_transformers", "onnxruntime", "faiss", "rich")


def loaded(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a fresh interpreter has loaded after the code."""
    program = f"import json, sys\n{code}\nprint('LOADED', json.dumps([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rsplit("LOADED", 1)[1])


@pytest.mark.parametrize(
    "code",
    [
        "from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneTranslator, FastLaneVectorStore",
        "from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneRetriever, FastLaneVectorStore",
        "from fastlane_rag import FastLaneIndex",
        "from fastlane_rag import FastLaneIndex; FastLaneIndex.create(dim=4).stats()",
    ],
    ids=["langchain", "llama-index", "index", "an-index-without-a-model"],
)
def test_importing_loads_no_heavy_library(code: str) -> None:
    assert loaded(code, HEAVY) == []


def test_the_langchain_package_alone_loads_no_framework() -> None:
    code = "import langchain_fastlane; dir(langchain_fastlane)"
    assert loaded(code, (*HEAVY, "langchain_core", "pydantic", "fastlane_rag")) == []


def test_an_unknown_name_of_the_langchain_package_fails_plainly() -> None:
    import langchain_fastlane

    with pytest.raises(AttributeError, match="'FastLaneRetreiver'"):
        _ = langchain_fastlane.FastLaneRetreiver  # type: ignore[attr-defined]
