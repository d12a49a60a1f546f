"""The HTTP application as a deployment of Ray Serve, which gives it replicas and autoscaling.

Ray Serve's own config file says how many; its `import_path` is `fastlane_rag.cluster.serving:application`, and `args`
are the fields of `ServeSettings`, with the directories of clusters or of single indexes. docs/cluster.md has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from fastlane_rag.cluster.index import ClusterIndex
from fastlane_rag.cluster.manifest import MANIFEST
from fastlane_rag.errors import DataError
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.logs import log_to_stderr
from fastlane_rag.serve.settings import ServeSettings

__all__ = ["application", "deploy"]


def application(args: dict[str, Any]) -> Application:
    """The application of Ray Serve: one deployment, called "http".

    Args:
        args: the fields of `ServeSettings`; `indexes` are the directories by name.

    Raises:
        ValidationError: a field is unknown, or not what it must be.
    """
    settings = ServeSettings.model_validate(args)
    # Each replica makes the application for itself: it holds connections, locks and threads.
    replica = serve.ingress(lambda: _served(settings))()
    return serve.deployment(name="http")(replica).bind()


def _served(settings: ServeSettings) -> FastAPI:
    """The application of a replica, over its clusters and single indexes."""
    import torch

    torch.set_num_threads(1)  # requests are what runs in parallel
    log_to_stderr(settings.log_format)
    clusters: dict[str, Any] = {
        name: ClusterIndex.open(path, model=settings.model, device=settings.device, timeout=settings.read_seconds)
        for name, path in settings.indexes.items()
        if (path / MANIFEST).exists()
    }
    single = {name: path for name, path in settings.indexes.items() if name not in clusters}
    return create_app(settings.model_copy(update={"indexes": single}), clusters)


def deploy(config: Path) -> None:
    """Deploy the applications of a config file of Ray Serve, as `serve deploy` does; replaces what runs.

    Raises:
        DataError: the file is no config of Ray Serve.
    """
    import yaml
    from ray.serve._private.api import serve_start

    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(config.read_text()))
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{config} is no config of Ray Serve: {error}") from error
    client = serve_start(
        http_options=schema.http_options.model_dump(),
        proxy_location=schema.proxy_location,
        grpc_options=schema.grpc_options.model_dump(),
    )
    client.deploy_apps(schema, _blocking=True)
