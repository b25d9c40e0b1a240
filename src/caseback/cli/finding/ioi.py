"""`caseback ioi`: which heads find the indirect object, with what effect."""

from typing import Annotated

from typer import Option

from caseback.cli.answer import answer
from caseback.cli.loading import quiet
from caseback.cli.options import Json, OfModel, Sample
from caseback.cli.with_options import with_options


@with_options
def ioi(
    of: OfModel = OfModel().worded(model="A bundled model, a folder, a hub id, or indirect_object (made by hand)."),
    sample: Sample = Sample(count=100),
    corruption: Annotated[str, Option(help="abc, name or swap: how the counterfactuals differ.")] = "abc",
    every: Annotated[bool, Option("--all", help="List heads without a role too.")] = False,
    output: Json = Json(),
) -> None:
    """Table the heads of indirect object identification (name movers, S-inhibition …), by order of mention."""
    with quiet():
        from caseback.reports.tables.ioi import ioi_prompts, ioi_table
        from caseback.views.text.ioi import print_ioi

        model, prompts = ioi_prompts(of.model, sample.count, corruption=corruption, seed=sample.seed, **of.how)
        table = ioi_table(model, prompts, progress=True)
    answer(output, table, text=lambda: print_ioi(table, every=every))
