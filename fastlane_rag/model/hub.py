"""Names on the Hugging Face hub, which may be out of reach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from fastlane_rag.errors import ModelError

__all__ = ["hub_options"]

_TIMEOUT_SECONDS = 10.0
# One of these is in every model that can be opened.
_FILES = ("modules.json", "config.json")


def hub_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options to load a model of the hub with: from the cache alone, where the hub cannot be reached.

    The hub's own client would first try again for minutes.

    Raises:
        ModelError: the name is none of the hub's, or the hub cannot be reached and the model is not in the cache.
    """
    if constants.HF_HUB_OFFLINE or options.get("local_files_only"):
        return dict(options)
    try:
        HfApi().model_info(name, revision=options.get("revision"), timeout=_TIMEOUT_SECONDS, token=options.get("token"))
    except HFValidationError as error:
        raise ModelError(
            f"cannot open the model {name!r}: there is no such folder, and it is no name of the Hugging Face hub"
        ) from error
    except HfHubHTTPError:  # it answers: what is wrong with the name, loading will say
        return dict(options)
    except Exception as error:  # whatever the network raises
        if _cached(name, options):
            return {**options, "local_files_only": True}
        raise ModelError(
            f"cannot open the model {name!r}: there is no such folder, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}). Give the folder of a model, or try again with a network"
        ) from error
    return dict(options)


def _cached(name: str, options: Mapping[str, Any]) -> bool:
    folder, revision = options.get("cache_folder"), options.get("revision")
    found = (try_to_load_from_cache(name, file, cache_dir=folder, revision=revision) for file in _FILES)
    return any(isinstance(path, str) and Path(path).is_file() for path in found)
