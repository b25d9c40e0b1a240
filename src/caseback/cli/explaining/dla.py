"""`caseback dla`: a prediction as a sum of what each part of the model wrote for it."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, measure, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import By, Ids, Measured, OfModel, Output, Top
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError


@with_options
def dla(
    prompts: Annotated[list[str], Argument(help="One prompt, or several whose shares are averaged.")],
    of: OfModel = OfModel(),
    measured: Measured = Measured().worded(metric="logit_diff, or logit for the target alone."),
    split: By = By("component").worded(by="component, branch, layer, head, neuron or source."),
    top: Top = Top(20).worded(top="How many parts are shown by themselves."),
    erased: Annotated[
        bool, Option(help="By component: test which shares later parts take back, with one more run each.")
    ] = True,
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Split a logit or a logit difference into the direct shares of the model's parts: a waterfall."""
    by = split.by or "component"
    if measured.metric not in ("logit_diff", "logit"):
        raise CasebackError(f"--metric {measured.metric!r}: only logit_diff and logit are sums of parts")
    given = [prompt_of(prompt, ids.ids) for prompt in prompts]
    with quiet():
        from caseback.localize.components.erasure import erased_writes
        from caseback.reports.direct_shares import SPLITS, direct_shares, expect_split, share_waterfall
        from caseback.views.figure.page import write_figure
        from caseback.views.figure.waterfall import waterfall_figure
        from caseback.views.text.direct_shares import print_direct_shares

        expect_split(by, "--by")
        model = model_of(of)
        tokens = model.tokens(given)
        metric, words = measure(model, measured, tokens)
        values = metric(model.run(tokens)).tolist()
        shares = direct_shares(model, tokens, metric, by, top=top.top)
        tested = erased and by == "component" and not output.as_json
        writes = erased_writes(model, tokens, metric) if tested else None
    drawn = share_waterfall(shares, by, top=top.top)
    what = f"Direct shares of {SPLITS[by]}"
    title = f"{what} (mean of {len(given)} prompts)" if len(given) > 1 else what
    answer(
        output,
        shares,
        text=lambda: print_direct_shares(shares, drawn, title, words, values, erased=writes),
        page=lambda path: write_figure(
            waterfall_figure(drawn, title=what, value=words),
            path,
            question=f"What wrote the {words}?",
            prompt="\n".join(map(as_text, given)),
            provenance=shares.attrs,
        ),
    )
