"""`caseback drivers`: what a neuron or a feature reads, or why a head looks, split among what wrote it."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.dictionaries.shared_options import Dictionaries
from caseback.cli.inputs import prompt_of
from caseback.cli.loading import dictionaries_of, model_of, quiet
from caseback.cli.options import Ids, OfModel, OnePos, Output, Top
from caseback.cli.with_options import with_options


@with_options
def drivers(
    prompt: Annotated[str, Argument(help="The prompt, such as 'The Eiffel Tower is in'.", show_default=False)],
    unit: Annotated[str, Argument(help="A head, neuron or feature, such as L2H3, L3N17 or L2F31.", show_default=False)],
    of: OfModel = OfModel(),
    of_features: Dictionaries = Dictionaries().worded(
        dictionaries="Name writers by the features of these, a file or a set's folder each; by default heads and MLPs."
    ),
    pos: OnePos = OnePos().worded(pos="Where the unit is asked about; of a head its query. By default the last."),
    key: Annotated[int | None, Option(help="What a head looks at; by default what it looks at most.")] = None,
    top: Top = Top(20),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """What drives a unit at one place: the writers of what it reads, or pairs of them behind a head's look."""
    of_features.expect_forced()
    text = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.reports.quick.drivers import unit_drivers
        from caseback.views.page.kinds import write_page
        from caseback.views.text.inputs.drivers import print_drivers

        model = model_of(of)
        listed = dictionaries_of(of_features.dictionaries, model, force=of_features.force) or ()
        document = unit_drivers(model, model.tokens([text]), unit, listed, pos=pos.pos, key=key, top=top.top)
    answer(output, document, text=lambda: print_drivers(document), page=lambda path: write_page(document, path))
