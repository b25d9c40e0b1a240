"""`caseback ablate`: what a prediction loses without each head, MLP or neuron."""

from typing import Annotated

from typer import Argument, Option

from caseback.cli.answer import answer
from caseback.cli.inputs import as_text, measure, names_in, numbers, prompt_of
from caseback.cli.loading import model_of, quiet
from caseback.cli.options import Ablation, Counterfactuals, Ids, Measured, OfModel, Output, Places, Seed, Top
from caseback.cli.with_options import with_options


@with_options
def ablate(
    prompts: Annotated[list[str], Argument(help="One prompt, or several whose effects are averaged.")],
    of: OfModel = OfModel(),
    measured: Measured = Measured(),
    ablation: Ablation = Ablation("zero").worded(
        ablation="What stands in for a component: zero, mean, resample, noise or optimal."
    ),
    components: Annotated[
        str | None, Option(help="heads, mlps, neurons, or names such as L3H2,MLP 4,L3N17; heads and mlps by default.")
    ] = None,
    places: Places = Places().worded(layers="Of a group of components, such as 0,2-4; all by default."),
    over: Annotated[list[str] | None, Option(help="A reference prompt for mean and optimal; may be repeated.")] = None,
    counterfactuals: Counterfactuals = Counterfactuals(),
    seed: Seed = Seed(),
    top: Top = Top(12),
    ids: Ids = Ids(),
    output: Output = Output(),
) -> None:
    """Ablate components one at a time: what the metric loses without each."""
    given = [prompt_of(prompt, ids.ids) for prompt in prompts]
    names = None if components is None else names_in(components)
    with quiet():
        from caseback.localize.components.ablation import ablate as ablated
        from caseback.reports.maps import ablation_map
        from caseback.views.figure.heatmap import heatmap
        from caseback.views.figure.page import write_figure
        from caseback.views.text.interventions import print_ablation

        model = model_of(of)
        tokens = model.tokens(given)
        metric, words = measure(model, measured, tokens[0])
        effects = ablated(
            model,
            tokens,
            metric,
            components=names[0] if names and len(names) == 1 else names,
            layers=numbers(places.layers, "--layers"),
            kind=ablation.ablation,
            over=[prompt_of(prompt, ids.ids) for prompt in over or ()] or None,
            corrupt=[prompt_of(prompt, ids.ids) for prompt in counterfactuals.corrupt or ()] or None,
            pos=numbers(places.pos, "--pos"),
            seed=seed.seed,
            progress=True,
        )
    answer(
        output,
        effects,
        text=lambda: print_ablation(effects, words, top=top.top),
        page=lambda path: write_figure(
            heatmap(ablation_map(effects), title=f"{ablation.ablation}-ablation", value="effect"),
            path,
            question=f"What does the {words} lose without each part?",
            prompt="\n".join(map(as_text, given)),
            provenance=effects.attrs,
        ),
    )
