"""`caseback explain`: why the model predicted this token and not that one, with checks of every claim."""

from typing import Annotated

from typer import Argument

from caseback.cli.answer import answer
from caseback.cli.inputs import continuation_of, prompt_of, token_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ablation, Contrast, Counterfactual, Ids, OfModel, Output
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def explain(
    prompt: Annotated[str | None, Argument(help="The text whose next token is explained.", show_default=False)] = None,
    of: OfModel = OfModel(),
    contrast: Contrast = Contrast().worded(
        foil="Its contrast; by default the answer to --corrupt, or the model's next choice."
    ),
    counterfactual: Counterfactual = Counterfactual(),
    ablation: Ablation = Ablation("zero").worded(ablation="What stands in for an ablated component: zero or mean."),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Explain why the model predicts a token: inputs, components, layers, and checks."""
    if prompt is None:
        raise CasebackError("no prompt given: expected a text, or --ids and token ids such as 5,1,2")
    given = prompt_of(prompt, ids.ids)
    with quiet():
        from caseback.reports.explain import explain as explained
        from caseback.views.page.kinds import write_page
        from caseback.views.text.explanation import print_explanation

        model = model_of(of)
        document = explained(
            model,
            given,
            target=token_in(model, contrast.target),
            foil=token_in(model, contrast.foil),
            corrupt=continuation_of(counterfactual.corrupt, ids.ids),
            ablation=ablation.ablation,
            progress=True,
        )
    answer(
        output,
        document,
        text=lambda: print_explanation(document),
        page=lambda path: write_page(document, path),
    )
