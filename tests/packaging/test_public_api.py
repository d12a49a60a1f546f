"""The public names and their signatures, as `public_api.txt` has them: a change of that file is a deliberate diff.

`python tests/packaging/test_public_api.py` writes it again.
"""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

LISTED = Path(__file__).with_name("public_api.txt")
MODULES = (
    "fastlane_rag",
    "fastlane_rag.errors",
    "fastlane_rag.types",
    "fastlane_rag.index.options",
    "fastlane_rag.index.outside",
    "fastlane_rag.search.options",
    "fastlane_rag.search.policy",
    "fastlane_rag.search.result",
    "fastlane_rag.scoring",
    "fastlane_rag.model",
    "fastlane_rag.explain",
    "fastlane_rag.rerank",
    "fastlane_rag.index.protocol",
    "fastlane_rag.candidates",
    "fastlane_rag.candidates.pgvector",
    "fastlane_rag.candidates.qdrant",
    "fastlane_rag.remote",
    "fastlane_rag.data",
    "fastlane_rag.training",
    "langchain_fastlane",
    "llama_index.retrievers.fastlane",
)


def public_api() -> str:
    """One line a name: module, name, signature; methods, properties and fields indented under their class."""
    lines = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines.append(f"[{name}]")
        names = getattr(module, "__all__", None) or [
            one for one, value in vars(module).items() if getattr(value, "__module__", None) == name
        ]
        for one in sorted(names):
            lines += described(one, getattr(module, one))
        lines.append("")
    # Versions of Python differ in how they write these two.
    text = "\n".join(lines).replace("pathlib._local.", "pathlib.")
    return re.sub(r"\*<class '([\w.]+)'>", r"Unpack[\1]", text)


def described(name: str, value: object) -> list[str]:
    if inspect.isclass(value):
        if not value.__module__.startswith(("fastlane_rag", "langchain_fastlane", "llama_index.retrievers.fastlane")):
            return [name]
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        return [f"class {name}({bases})", *(f"    {line}" for line in members(value))]
    if callable(value) and not hasattr(value, "__args__"):
        return [f"{name}{signature(value)}"]
    return [name]


def members(cls: type) -> list[str]:
    lines = []
    if dataclasses.is_dataclass(cls):
        lines += [f"{field.name}: {field.type}" for field in dataclasses.fields(cls)]
    elif hasattr(cls, "model_fields"):
        lines += [f"{name}: field" for name in cls.model_fields]
    for base in cls.__mro__:
        if not base.__module__.startswith(("fastlane_rag", "langchain_fastlane", "llama_index.retrievers.fastlane")):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") and name not in ("__init__", "__len__", "__contains__", "__iter__", "__call__"):
                continue
            inner = getattr(value, "__func__", value)
            if isinstance(value, property):
                lines.append(f"{name}: property")
            elif name == "__init__" and (dataclasses.is_dataclass(cls) or hasattr(cls, "model_fields")):
                continue
            elif inspect.isfunction(inner):
                lines.append(f"{name}{signature(inner)}")
    return sorted(set(lines))


def signature(function: object) -> str:
    try:
        return str(inspect.signature(function))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"


def test_the_public_names_are_those_listed() -> None:
    assert public_api() == LISTED.read_text(), "run python tests/packaging/test_public_api.py if this is meant"


if __name__ == "__main__":
    LISTED.write_text(public_api())
