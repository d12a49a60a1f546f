"""A model's folder, checked before anything is built of it: it may come from a stranger, or be cut off on its way."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastlane_rag.errors import ModelError

__all__ = ["ROUTERS_FILE", "check_complete", "check_model_folder", "check_vocabulary", "is_folder", "model_folder"]

ROUTERS_FILE = "fastlane_routers.json"
"""Lists the routers of a model, which `modules.json` leaves out."""

# Far above what any model has, far below what takes minutes to build or read.
_MOST_ENTRIES = 10_000
_MOST_JSON = 1 << 20
_MOST_TOKENIZER = 256 << 20
_MOST_HEADER = 100 << 20
_MOST_PROMPT = 10_000
_MOST_MODULES = 100
_MOST_LAYERS = 1_000
_MOST_LABELS = 100_000
_MOST_LENGTH = 1_000_000
# How often the weights of a layer may be larger than its file: weights in 4 bits, or shared by layers.
_SLACK = 4

# Files that say how a model is built. Others hold vocabularies, or what nobody opens.
_DESCRIPTION = re.compile(
    r"config.*\.json|(?!tokenizer_).*config\.json|modules\.json|" + re.escape(ROUTERS_FILE) + r"|artifact\.metadata"
)
_LIMITS = {
    "query_length": _MOST_LENGTH,
    "document_length": _MOST_LENGTH,
    "query_maxlen": _MOST_LENGTH,
    "doc_maxlen": _MOST_LENGTH,
    "max_seq_length": _MOST_LENGTH,
    "num_labels": _MOST_LABELS,
}
_MATRICES = (
    ("hidden_size", "hidden_size"),
    ("hidden_size", "intermediate_size"),
    ("vocab_size", "hidden_size"),
    ("max_position_embeddings", "hidden_size"),
    ("hidden_size", "inner_size"),
    ("context_rank", "hidden_size"),
    ("context_rank", "context_dim"),
    ("vocabulary_size",),
    ("in_features", "out_features"),
)
"""Fields of a `config.json` whose product is the size of a matrix of weights."""
_POINTER = b"version https://git-lfs"


def model_folder(folder: Path) -> Path:
    """Where in a folder the model is: in its "model" where the folder itself has none, as training leaves it."""
    within = folder / "model"
    listed = ("modules.json", "config.json", "artifact.metadata")
    if not is_folder(folder) or any((folder / name).exists() for name in listed):
        return folder
    return within if any((within / name).exists() for name in listed) else folder


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path, which may be any text, such as one that is too long for a path."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_model_folder(folder: Path) -> None:
    """Check the files of a model before they are loaded.

    Raises:
        ModelError: a file is no regular file, cut off, a Git LFS pointer or much too large, or asks for a model that is
            far larger than its weights; the message names it.
    """
    files = list(_files(folder))
    for file, size in files:
        if file.suffix in (".safetensors", ".bin", ".json"):
            _check_head(file, size)
    for file, size in files:
        if file.suffix == ".safetensors":
            _check_weights(file, size)
        elif file.suffix == ".json" or file.name == "artifact.metadata":
            _check_config(file, size)
    _check_modules(folder)
    _check_routers(folder)


def check_complete(folder: Path, wanted: Iterable[str]) -> None:
    """Check that a model that `FastLaneModel.save` wrote has all weights: what is missing would be drawn at random.

    Args:
        folder: of the model; those of others may leave out what they do not use.
        wanted: names of the encoder's weights.

    Raises:
        ModelError: some are missing.
    """
    if not (folder / ROUTERS_FILE).is_file():
        return
    stored = {name for file in folder.glob("*.safetensors") for name in _header(file)}
    if stored and (missing := sorted(set(wanted) - stored)):
        raise ModelError(f"{folder} lacks {len(missing)} of its weights, such as {missing[0]}; copy the model again")


def check_vocabulary(name: str, tokenizer: Any) -> None:
    """Check that a tokenizer knows words: transformers makes one of special tokens alone where its file is missing.

    Args:
        name: of the model, for the message.
        tokenizer: as transformers opened it.

    Raises:
        ModelError: it knows none.
    """
    if len(tokenizer) <= len(tokenizer.get_added_vocab()):
        raise ModelError(
            f"the tokenizer of the model {name!r} knows no words: its file, such as tokenizer.json or vocab.txt, is "
            "missing; copy or download the model again"
        )


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files in a folder and their sizes. A link to a file is one: that is how the hub's cache stores models."""
    count = 0
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            count += 1
            if count > _MOST_ENTRIES:
                raise ModelError(f"{folder} has more than {_MOST_ENTRIES} files: it is no model folder")
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
                continue
            try:
                found = entry.stat()
            except OSError as error:
                raise ModelError(f"{entry.path} is a link that leads nowhere: {error.strerror}") from error
            if stat.S_ISREG(found.st_mode):
                yield Path(entry.path), found.st_size
            elif not stat.S_ISDIR(found.st_mode):
                raise ModelError(f"{entry.path} is neither a file nor a folder; a model holds no pipes or devices")


def _check_head(file: Path, size: int) -> None:
    if not size:
        raise ModelError(f"{file} is empty; copy or download the model again")
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise ModelError(f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")


def _check_weights(file: Path, size: int) -> None:
    """The header of a safetensors file says how long it is."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > min(size - 8, _MOST_HEADER):
        raise ModelError(f"{file} is cut off or damaged: it has {size} bytes, its header alone {length}")
    try:
        needed = 8 + length + max((entry["data_offsets"][1] for entry in _header(file).values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: its header cannot be read ({error})") from error
    if needed != size:
        raise ModelError(f"{file} is cut off or damaged: it has {size} bytes instead of {needed}; copy it again")


def _header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of each of its arrays."""
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def _check_config(file: Path, size: int) -> None:
    described = _DESCRIPTION.fullmatch(file.name)
    most = _MOST_JSON if described else _MOST_TOKENIZER
    if size > most:
        raise ModelError(f"{file} has {size} bytes, more than the {most} that such a file may have")
    if not described:
        return
    values = _read(file)
    for mapping in _mappings(values):
        for name, value in mapping.items():
            if name == "prompts" or name.endswith(("_prompt", "_prefix")):
                _check_prompts(file, name, value)
            layers = "layers" in name or "experts" in name or name == "n_layer"
            limit = _LIMITS.get(name, _MOST_LAYERS if layers else None)
            if limit is not None and isinstance(value, int | float) and not 0 <= value <= limit:
                raise ModelError(f"{file} says {name} = {value}, which is beyond {limit}")
        if file.name == "config.json":
            _check_sizes(file, mapping)


def _check_prompts(file: Path, name: str, value: Any) -> None:
    for prompt in value.values() if isinstance(value, dict) else [value]:
        if isinstance(prompt, str) and len(prompt) > _MOST_PROMPT:
            raise ModelError(f"{file} has a text of {len(prompt)} characters as {name}, more than {_MOST_PROMPT}")


def _check_sizes(file: Path, values: dict[str, Any]) -> None:
    """A matrix is hardly larger than the file that its weights come from."""
    weights = sum(one.stat().st_size for kind in ("*.safetensors", "*.bin") for one in file.parent.glob(kind))
    for names in _MATRICES if weights else ():
        sizes = [values.get(name) for name in names]
        if not all(isinstance(size, int) for size in sizes):
            continue
        product = 1
        for size in sizes:
            product *= int(size or 0)
        if not 0 <= product <= _SLACK * weights:
            said = " and ".join(f"{name} = {size}" for name, size in zip(names, sizes, strict=True))
            raise ModelError(f"{file} says {said}, too large for the weights beside it, which take {weights} bytes")


def _check_modules(folder: Path) -> None:
    listing = folder / "modules.json"
    if not listing.exists():
        return
    saved_here = (folder / ROUTERS_FILE).exists()
    modules = _read(listing)
    if not isinstance(modules, list) or len(modules) > _MOST_MODULES or not all(isinstance(m, dict) for m in modules):
        raise ModelError(f"{listing} is no list of at most {_MOST_MODULES} modules")
    for module in modules:
        path = module.get("path")
        if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
            raise ModelError(f"{listing} has a module whose path {path!r} is not inside the model's folder")
        ours = saved_here and str(module.get("type")).startswith("sentence_transformers.")
        if ours and not any((folder / path).glob("*config.json")):  # the defaults would give other embeddings
            raise ModelError(f"{folder / path} has lost its config.json; copy or download the model again")


def _check_routers(folder: Path) -> None:
    listing = folder / ROUTERS_FILE
    if not listing.exists() and not any(folder.glob("*_QueryRouter")):
        return
    for name in (ROUTERS_FILE, "modules.json", "config_sentence_transformers.json"):
        _check_there(folder / name)
    content = _read(listing)
    routers = content.get("routers") if isinstance(content, dict) else None
    named = [entry for entry in routers or [] if isinstance(entry, dict)] if isinstance(routers, list) else []
    if sorted(str(entry.get("type")) for entry in named) != ["DocumentRouter", "QueryRouter"]:
        raise ModelError(f"{listing} does not list one QueryRouter and one DocumentRouter; copy it again")
    for entry in named:
        path = entry.get("path")
        if not isinstance(path, str) or path != Path(path).name:
            raise ModelError(f"{listing}: unknown router entry {entry!r}; was it written by a newer version?")
        for name in ("config.json", "model.safetensors"):
            _check_there(folder / path / name)


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"{file} is missing; copy or download the model again")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: it is no JSON ({error})") from error


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """The JSON objects in a value, outermost first."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
