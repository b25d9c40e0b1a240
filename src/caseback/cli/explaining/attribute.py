"""`caseback attribute`: which tokens of the prompt caused this, by several methods, and how far to trust them."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.explaining.asked import Chat, Continuation
from caseback.cli.inputs import chat_of, continuation_of, names_in, prompt_of, token_in
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import (
    Generate,
    Ids,
    Json,
    Listed,
    Measured,
    Methods,
    OfModel,
    OnKnownSources,
    Output,
    Seed,
)
from caseback.cli.with_options import with_options
from caseback.errors import CasebackError

DEFAULT_METHODS = "gradient_x_input,integrated_gradients"


@with_options
def attribute(
    prompt: Annotated[str | None, Argument(help="The text whose next token is explained.", show_default=False)] = None,
    of: OfModel = OfModel(),
    by: Methods = Methods().worded(
        method=f"Methods by name, parted by commas, or all; --list names them. By default {DEFAULT_METHODS}."
    ),
    listed: Listed = Listed().worded(listed="No prompt: name the methods."),
    known: OnKnownSources = OnKnownSources(),
    measured: Measured = Measured(),
    level: Annotated[str, Option(help="Score each token, word or sentence.")] = "token",
    generate: Generate = Generate(0).worded(generate="Also attribute so many generated tokens, one by one."),
    continued: Continuation = Continuation(),
    contrast: Annotated[str | None, Option(help="Another continuation, token by token its foil.")] = None,
    baseline: Annotated[
        str,
        Option(
            help="What a removed token becomes where faithfulness is measured: mean, mean_after_first, zero, pad, eos "
            "...; the methods keep their own baselines."
        ),
    ] = "mean",
    seed: Seed = Seed().worded(seed="What random orders, and the prompts of --judge, follow from."),
    chat: Chat = Chat(),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Attribute a prediction to the prompt's tokens by several methods, side by side."""
    if (prompt is not None) + known.judge + listed.listed != 1:
        raise CasebackError("expected one of a prompt, --judge (methods on models with a known source) and --list")
    if output.html is not None and prompt is None:
        raise CasebackError("--judge and --list print a table, or JSON: leave out --html")
    if listed.listed:
        _list(output)
        return
    # judging is of all methods unless some are named
    method = ("all" if known.judge else DEFAULT_METHODS) if by.method is None else by.method
    names = "all" if method == "all" else names_in(method)
    if known.judge:
        _judge(names, seed.seed, output)
        return
    assert prompt is not None
    given = chat_of(prompt_of(prompt, ids.ids), chat.chat)
    with quiet():
        from caseback.reports.attributions import compare_attributions
        from caseback.views.page.kinds import write_page
        from caseback.views.text.attributions import print_attributions

        model = model_of(of)
        document = compare_attributions(
            model,
            given,
            names,
            target=token_in(model, measured.target),
            foil=token_in(model, measured.foil),
            metric=measured.metric,
            features=level,
            baseline=baseline,
            generate=generate.generate,
            continuation=continuation_of(continued.continuation, ids.ids),
            contrast=continuation_of(contrast, ids.ids),
            seed=seed.seed,
            progress=True,
        )
    answer(
        output,
        document,
        text=lambda: print_attributions(document),
        page=lambda path: write_page(document, path),
    )


def _list(output: Json) -> None:
    from caseback.localize.inputs import input_methods
    from caseback.reports.tables.techniques import technique_row
    from caseback.views.text.listings.techniques import print_methods

    rows = [technique_row(technique) | {"name": name} for name, technique in input_methods().items()]
    answer(output, rows, text=lambda: print_methods(rows))


def _judge(names: str | list[str], seed: int, output: Json) -> None:
    with quiet():
        from caseback.localize.inputs import known_source_test
        from caseback.views.text.judged import print_judged

        shares = known_source_test(names, seed=seed, progress=True)
    answer(output, shares, text=lambda: print_judged(shares))
