"""`caseback ablate`: what a prediction loses without each head, MLP or neuron."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import contrast, file_to, metric_named, numbers, prompt_of, told
from caseback.cli.loading import DEFAULT_MODEL, quiet


def ablate(
    prompts: Annotated[list[str], typer.Argument(help="One prompt, or several whose effects are averaged.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target: Annotated[
        str | None, typer.Option(help="The token measured; by default the first prompt's.", show_default=False)
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="Its contrast; by default the next choice.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help="logit_diff, logit, prob or log_prob.")] = "logit_diff",
    kind: Annotated[str, typer.Option(help="zero, mean, resample, noise or optimal.")] = "zero",
    components: Annotated[
        str | None, typer.Option(help="heads, mlps, neurons, or names such as L3H2,MLP 4,L3N17.", show_default=False)
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Of a group, such as 0,2-4.", show_default=False)] = None,
    over: Annotated[
        list[str] | None, typer.Option(help="A reference prompt for mean and optimal; repeat it.", show_default=False)
    ] = None,
    corrupt: Annotated[
        list[str] | None, typer.Option(help="A counterfactual for resample; repeat it.", show_default=False)
    ] = None,
    pos: Annotated[
        str | None, typer.Option(help="Positions such as 2-5,-1; all by default.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise and of fitting.")] = 0,
    top: Annotated[int, typer.Option(help="How many of the largest effects are listed.")] = 12,
    ids: Annotated[bool, typer.Option("--ids", help="The prompts are token ids such as 5,1,2.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the map as an HTML page.", show_default=False)] = None,
) -> None:
    """Ablate components one at a time: what the metric loses without each."""
    file_to(save)
    given = [prompt_of(p, ids) for p in prompts]
    with quiet():
        from caseback.localize.components.ablation import ablate as ablated
        from caseback.model.running.load import load

        loaded = load(model)
        tokens = loaded.tokens(given)
        final = loaded.run(tokens[0]).logits[0, int(tokens[0].column(-1)[0])]
        t, f = contrast(loaded, target, foil, final)
        names = None if components is None else [name.strip() for name in components.split(",")]
        found = ablated(
            loaded,
            tokens,
            metric_named(metric, t, f),
            components=names[0] if names and len(names) == 1 else names,
            layers=numbers(layers, "--layers"),
            kind=kind,
            over=None if not over else [prompt_of(p, ids) for p in over],
            corrupt=None if not corrupt else [prompt_of(p, ids) for p in corrupt],
            pos=numbers(pos, "--pos"),
            seed=seed,
            progress=sys.stderr.isatty(),
        )
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    else:
        from rich.console import Console

        from caseback.reports.maps import as_map
        from caseback.views.numbers_text import number
        from caseback.views.text.bars import ASCII, UNICODE
        from caseback.views.text.heatmap import map_text, ranked_text

        console = Console()
        glyphs = ASCII if console.options.ascii_only else UNICODE
        values = ", ".join(number(v) for v in found.metric_value.values.tolist()[:6])
        more = " ..." if found.sizes["batch"] > 6 else ""
        said = f"{told(loaded, metric, t, f)}: {values}{more}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Effect of {kind}-ablation (lost without the component)", style="bold", highlight=False)
        if "neuron" not in found["kind"].values:  # thousands of them make a list, not a map
            for part in map_text(_map(found), width=console.width, glyphs=glyphs):
                console.print(part, highlight=False, markup=False)
        console.print(
            ranked_text(as_map(found), top, width=console.width, glyphs=glyphs), highlight=False, markup=False
        )
    if save is not None:
        from caseback.views.figure.heatmap import heatmap, write_figure

        title = f"{kind}-ablation: {told(loaded, metric, t, f)}"
        typer.echo(f"written to {write_figure(heatmap(_map(found), title=title, value='effect'), save)}", err=True)


def _map(found):
    """Layers by heads with the MLP as a last column where that is what was ablated; else a list."""
    import numpy as np

    from caseback.reports.maps import Axis, Map, as_map

    listed = as_map(found)
    kinds = set(found["kind"].values.tolist())
    if "neuron" in kinds:
        return listed
    layers = sorted(set(found["layer"].values.tolist()))
    heads = sorted(set(found["head"].values.tolist()) - {-1})
    labels = [f"H{h}" for h in heads] + (["MLP"] if "mlp" in kinds else [])
    shape = (len(layers), len(labels))
    values = np.full(shape, np.nan)
    spread = None if listed.spread is None else np.full(shape, np.nan)
    for i, (layer, head) in enumerate(zip(found["layer"].values.tolist(), found["head"].values.tolist(), strict=True)):
        at = layers.index(layer), len(labels) - 1 if head < 0 else heads.index(head)
        values[at] = listed.values[i, 0]
        if spread is not None and listed.spread is not None:
            spread[at] = listed.spread[i, 0]
    return Map(Axis("layer", [str(i) for i in layers]), Axis("component", labels), values, spread, listed.n)
