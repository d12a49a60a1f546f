"""The `fastlane` command. Each sub-command has a module; heavy libraries load inside the commands."""

import click

from fastlane_rag import __version__
from fastlane_rag.cli import (
    cluster,
    demo,
    doctor,
    evaluate,
    explain,
    index,
    inspection,
    mcp,
    reindex,
    search,
    serve,
    train,
)
from fastlane_rag.cli.base import Commands

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastlane")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Late-interaction retrieval at the price of a dense retriever."""


for command in (
    index.index,
    reindex.reindex,
    search.search,
    serve.serve,
    mcp.mcp,
    cluster.cluster,
    explain.explain,
    inspection.verify,
    inspection.stats,
    inspection.export,
    evaluate.evaluate,
    train.train,
    train.train_router,
    demo.demo,
    doctor.doctor,
):
    main.add_command(command)
