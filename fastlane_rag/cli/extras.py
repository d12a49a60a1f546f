"""The extras: which modules each brings, and what is lacking without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from fastlane_rag.errors import MissingExtraError

__all__ = ["EXTRAS", "Extra", "missing", "require"]


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part.

    Attributes:
        modules: what it brings, by the names to import.
        without: what its lack costs.
    """

    modules: tuple[str, ...]
    without: str


EXTRAS = {
    "cpu": Extra(
        ("onnx", "onnxruntime", "faiss"), "torch encodes in place of onnxruntime, several times slower on a CPU"
    ),
    "files": Extra(("pypdf", "markdownify", "semantic_text_splitter"), "fastlane index takes no folder"),
    "images": Extra(("PIL",), "no images as documents"),
    "client": Extra(("httpx",), "no RemoteIndex"),
    "serve": Extra(("fastapi", "httptools", "httpx", "prometheus_client", "uvicorn"), "no fastlane serve"),
    "ray": Extra(("ray", "ray.serve", "ray.data", "fsspec", "pyarrow", "fastapi", "yaml"), "no fastlane cluster"),
    "pgvector": Extra(("psycopg", "psycopg_pool"), "no candidates from PostgreSQL"),
    "qdrant": Extra(("qdrant_client",), "no candidates from Qdrant"),
    "mcp": Extra(("mcp", "httpx"), "no fastlane mcp"),
    "langchain": Extra(("langchain_fastlane",), "no LangChain"),
    "llama-index": Extra(("llama_index.retrievers.fastlane",), "no LlamaIndex"),
    "eval": Extra(("ir_measures", "bm25s", "Stemmer"), "no fastlane eval"),
    "ir-datasets": Extra(("ir_datasets",), "fastlane eval takes no dataset by its id"),
    "train": Extra(("datasets", "yaml", "bm25s", "Stemmer", "peft"), "no fastlane train and train-router"),
}
"""By their names in `pip install 'fastlane-rag[NAME]'`."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra].modules if not _found(name)]


def require(doing: str, extras: Sequence[str]) -> None:
    """Check that extras are installed, before any work.

    Raises:
        MissingExtraError: one is not; the message says which modules lack, and what to install.
    """
    for extra in extras:
        if lacking := missing(extra):
            raise MissingExtraError(
                f"{doing} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed: "
                f"pip install 'fastlane-rag[{extra}]'"
            )


def _found(module: str) -> bool:
    """Whether a module could be imported, without importing more than the packages it lies in."""
    try:
        return find_spec(module) is not None
    except ImportError:  # a package it lies in is missing
        return False
    except ValueError:  # it is loaded, and does not say from where
        return True
