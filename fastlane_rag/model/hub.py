"""A model of the Hugging Face hub as a folder of the local cache, to be checked before anything is built of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from tqdm import tqdm

__all__ = ["hub_folder"]

_WEIGHTS = "*.safetensors"
_OLDER_WEIGHTS = "*.bin"
# What a model is opened from, and no weights for other libraries.
_OPENED = ("*.json", "*.txt", "*.model", "*.metadata", "*.jinja", "*.py")


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
