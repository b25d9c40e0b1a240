"""`caseback graph`: what led to a prediction, by layer and position, as a graph."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ids, Method, OfModel, OnePos, Output, Threshold, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError, did_you_mean

METHODS = ("flow",)


@with_options
def graph(
    prompt: Annotated[str, Argument(help="The prompt, such as 'The Eiffel Tower is in'.", show_default=False)],
    of: OfModel = OfModel(),
    by: Method = Method("flow").worded(method="flow: information flow routes."),
    cut: Threshold = Threshold(0.04).worded(threshold="Of flow: lighter edges are hidden at first."),
    least: Annotated[float | None, Option(help="Of flow: lighter edges are left out; by default 0.01.")] = None,
    pos: OnePos = OnePos().worded(pos="The position whose prediction is explained; by default the last."),
    top: Top = Top(5).worded(top="How many of the strongest paths are listed."),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Draw what led to a prediction: a graph by layer and position, with sliders, cards and pins."""
    if by.method not in METHODS:
        raise CasebackError(f"no method is called {by.method!r}. {did_you_mean(by.method, METHODS)}")
    assert cut.threshold is not None
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.reports.graphs.flow import flow_graph_document
        from caseback.views.page.kinds import write_page
        from caseback.views.text.graph import print_graph

        model = model_of(of)
        document = flow_graph_document(
            model, model.tokens([given]), threshold=cut.threshold, least=least, pos=pos.pos, progress=True
        )
    answer(
        output,
        document,
        text=lambda: print_graph(document, top=top.top),
        page=lambda path: write_page(document, path),
    )
