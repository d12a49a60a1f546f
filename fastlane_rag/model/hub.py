"""Models of the Hugging Face hub, which may be out of reach: as a folder of the local cache, to be checked first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from tqdm import tqdm

from fastlane_rag.errors import ModelError

__all__ = ["hub_folder", "hub_model"]

_TIMEOUT_SECONDS = 10.0
# One of these is in every model that can be opened.
_FILES = ("modules.json", "config.json")
_WEIGHTS = "*.safetensors"
_OLDER_WEIGHTS = "*.bin"
# What a model is opened from, and no weights for other libraries.
_OPENED = ("*.json", "*.txt", "*.model", "*.metadata", "*.jinja", "*.py")


def hub_model(name: str, options: Mapping[str, Any]) -> str:
    """What to load a model of the hub by: its name, or its folder in the cache where the hub cannot be reached.

    The hub's own client would first try again for minutes.

    Raises:
        ModelError: the name is none of the hub's, or the hub cannot be reached and the model is not in the cache.
    """
    try:
        validate_repo_id(name)
        if constants.HF_HUB_OFFLINE or options.get("local_files_only"):
            return name
        HfApi().model_info(name, revision=options.get("revision"), timeout=_TIMEOUT_SECONDS, token=options.get("token"))
    except HFValidationError as error:
        raise ModelError(
            f"cannot open the model {name!r}: there is no such folder, and it is no name of the Hugging Face hub"
        ) from error
    except HfHubHTTPError:  # it answers: what is wrong with the name, loading will say
        return name
    except Exception as error:  # whatever the network raises
        cached = _cached(name, options)
        if cached is None:
            raise ModelError(
                f"cannot open the model {name!r}: there is no such folder, and the Hugging Face hub cannot be reached "
                f"({type(error).__name__}). Give the folder of a model, or try again with a network"
            ) from error
        return cached
    return name


class _NoBar(tqdm):  # type: ignore[misc]
    """Shows nothing where all files are there already; each file that is downloaded has a bar of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})


_QUIETLY: dict[str, Any] = {"ignore_patterns": ["onnx/*", "openvino/*"], "tqdm_class": _NoBar}


def hub_folder(
    name: str,
    *,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder with a model's files, downloaded where the cache has not got them.

    Args:
        name: the model's id.
        token: for private models.
        cache_folder: of the hub's files; None for the usual one.
        revision: a commit, branch or tag; None for the newest.
        local_files_only: download nothing.

    Raises:
        Exception: what the hub's library says where neither hub nor cache has such a model: no network, no such model,
            no right to it.
    """
    options = {"revision": revision, "token": token, "cache_dir": cache_folder}
    if local_files_only:
        return _downloaded(name, local_files_only=True, **options)
    try:
        return _downloaded(name, **options)
    except Exception as error:  # of any kind: then what is cached counts
        try:
            return _downloaded(name, local_files_only=True, **options)
        except Exception:  # of any kind: the first one says why
            raise error from None


def _downloaded(name: str, **options: Any) -> Path:
    folder = Path(snapshot_download(name, allow_patterns=[*_OPENED, _WEIGHTS], **_QUIETLY, **options))
    if not any(folder.rglob(_WEIGHTS)):
        snapshot_download(name, allow_patterns=[*_OPENED, _OLDER_WEIGHTS], **_QUIETLY, **options)
    return folder


def _cached(name: str, options: Mapping[str, Any]) -> str | None:
    """The folder of a model that was downloaded before."""
    for file in _FILES:
        found = try_to_load_from_cache(
            name, file, cache_dir=options.get("cache_folder"), revision=options.get("revision")
        )
        if isinstance(found, str):
            return str(Path(found).parent)
    return None
