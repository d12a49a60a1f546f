"""`fastlane train`: an encoder with its routers, from a YAML config."""

from pathlib import Path

import click

from fastlane_rag.errors import MissingExtraError


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fresh", is_flag=True, help="Do not resume; refuse when the output holds checkpoints.")
def train(config: Path, fresh: bool) -> None:
    """Train an encoder and its routers as CONFIG (YAML) says, resuming from the last checkpoint.

    The trained model, a directory, is in the config's output under "model"; checkpoints and log.csv lie beside it.
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        import datasets  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training needs the train extra: pip install 'fastlane-rag[train]'") from error
    from fastlane_rag.training import load_config
    from fastlane_rag.training import train as run

    settings = load_config(config)
    run(settings, resume=not fresh)
    click.echo(f"The trained model is in {settings.output / 'model'}")
