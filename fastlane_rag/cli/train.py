"""`fastlane train` and `train-router`: train an encoder with its routers, or only the routers."""

from pathlib import Path

import click

from fastlane_rag.cli.extras import require


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--fresh", is_flag=True, help="Do not resume; refuse when the output holds an earlier run.")
@click.option("--dry-run", is_flag=True, help="Of a config with steps, list them and which are done; run nothing.")
def train(config: Path, fresh: bool, dry_run: bool) -> None:
    """Train an encoder and its routers as CONFIG (YAML) says, resuming from the last checkpoint.

    The trained model, a directory, is in the config's output under "model"; checkpoints and log.csv lie beside it.

    A CONFIG with steps is a recipe: scripts that run in order, each into a folder of the output. A step that is
    complete is passed over, one that was interrupted goes on or begins anew, and one whose command, input or earlier
    step has changed is run again.
    """
    _ready()
    from fastlane_rag.training import load_config
    from fastlane_rag.training import train as run
    from fastlane_rag.training.config import read_yaml

    content = read_yaml(config)
    if isinstance(content, dict) and "steps" in content:
        _follow(config, fresh=fresh, dry_run=dry_run)
        return
    if dry_run:
        raise click.UsageError(f"--dry-run lists the steps of a recipe; {config} has none")
    settings = load_config(config)
    run(settings, resume=not fresh)
    click.echo(f"The trained model is in {settings.output / 'model'}")


def _follow(config: Path, *, fresh: bool, dry_run: bool) -> None:
    """Run a recipe, or list its steps."""
    from fastlane_rag.training.recipe import check_inputs, load_recipe, plan, run_recipe

    recipe = load_recipe(config)
    if dry_run:
        width = max(map(len, recipe.steps))
        for step in plan(recipe):
            click.echo(f"{step.name:<{width}}  {f'to run: {step.why}' if step.why else 'done'}")
        check_inputs(recipe)
        return
    run_recipe(recipe, resume=not fresh)
    click.echo(f"The result of the last step is in {recipe.output / list(recipe.steps)[-1]}")


@click.command("train-router")
@click.option("--model", "model_name", required=True, help="The model to route: a directory or hub id.")
@click.option("--corpus", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where the model goes.")
@click.option(
    "--queries",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON Lines of {text}: typical queries. Default: titles and sentences drawn from the corpus.",
)
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True, help="Optimisation steps.")
@click.option("--most-queries", type=click.IntRange(20), default=2000, show_default=True)
@click.option("--most-documents", type=click.IntRange(20), default=10_000, show_default=True)
@click.option("--seed", type=int, default=17, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def train_router(
    model_name: str,
    corpus: Path,
    out: Path,
    queries: Path | None,
    steps: int,
    most_queries: int,
    most_documents: int,
    seed: int,
    threads: int | None,
) -> None:
    """Learn routers for a late-interaction MODEL on a CORPUS (JSON Lines), without labels.

    The encoder stays as it is, so indexes made with the model stay valid; the routers learn from the model's own
    full SumMaxSim ranking. A run that was stopped goes on from its last checkpoint.
    """
    _ready()
    from fastlane_rag.data import read_passages, read_records
    from fastlane_rag.errors import DataError
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.training import train_router as run

    texts: list[str] | None = None
    if queries is not None:
        texts = []
        for number, record in read_records(queries):
            if not isinstance(record.get("text"), str):
                raise DataError(f'{queries}, line {number}: expected a string "text"')
            texts.append(record["text"])
    run(
        FastLaneModel.from_pretrained(None if model_name == "default" else model_name),
        list(read_passages(corpus)),
        out,
        queries=texts,
        most_queries=most_queries,
        most_documents=most_documents,
        steps=steps,
        seed=seed,
        threads=threads,
    )
    click.echo(f"The model with its trained routers is in {out / 'model'}; --model {out} takes it")


def _ready() -> None:
    """Check that the packages of training are installed, and log it to stderr.

    Raises:
        MissingExtraError: they are not.
    """
    import logging

    require("training", ["train"])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
