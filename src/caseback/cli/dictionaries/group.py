"""`caseback dictionary`: sparse dictionaries of a model's states, trained, measured, converted and read."""

import typer

from caseback.cli.dictionaries.convert import convert
from caseback.cli.dictionaries.evaluate import evaluate
from caseback.cli.dictionaries.features import features
from caseback.cli.dictionaries.judge import judge
from caseback.cli.dictionaries.listing import listing
from caseback.cli.dictionaries.show import show
from caseback.cli.dictionaries.train import train

dictionary = typer.Typer(
    name="dictionary", help="Sparse dictionaries of a model's states: train them, measure them, read their features."
)


@dictionary.callback(invoke_without_command=True)
def _options(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


dictionary.command("train")(train)
dictionary.command("eval")(evaluate)
dictionary.command("features")(features)
dictionary.command("show")(show)
dictionary.command("judge")(judge)
dictionary.command("convert")(convert)
dictionary.command("list")(listing)
