"""`caseback patch`: which parts carry what a prompt has and its counterfactual has not."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import contrast, file_to, metric_named, numbers, prompt_of, told
from caseback.cli.loading import DEFAULT_MODEL, quiet


def patch(
    clean: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    corrupt: Annotated[str, typer.Argument(help="Its counterfactual, token against token.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target: Annotated[
        str | None, typer.Option(help="The token measured; by default the clean prompt's.", show_default=False)
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="Its contrast; by default the corrupt prompt's.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help="logit_diff, logit, prob or log_prob.")] = "logit_diff",
    site: Annotated[
        str, typer.Option(help="What is patched: resid_pre, z, mlp_out, attn_out, pattern ...")
    ] = "resid_pre",
    by: Annotated[
        str | None, typer.Option(help="Dimensions, such as layer,pos or layer,head,pos.", show_default=False)
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0,2-4; all by default.", show_default=False)] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,2-4; all by default.", show_default=False)] = None,
    pos: Annotated[
        str | None, typer.Option(help="Positions such as 2-5,-1; all by default.", show_default=False)
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="Neurons, or entries of the last dimension; all by default.", show_default=False)
    ] = None,
    direction: Annotated[str, typer.Option(help="denoising (clean into corrupt) or noising.")] = "denoising",
    window: Annotated[int, typer.Option(help="Layers patched together.")] = 1,
    top: Annotated[int, typer.Option(help="How many of the largest parts are listed.")] = 10,
    ids: Annotated[bool, typer.Option("--ids", help="The prompts are token ids such as 5,1,2.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file to go on from after an interruption.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the map as an HTML page.", show_default=False)] = None,
) -> None:
    """Patch parts of one run into another: a map of what each brings back (or takes away)."""
    file_to(save)
    pair = prompt_of(clean, ids), prompt_of(corrupt, ids)
    with quiet():
        from caseback.localize.components.patching import patch as patched
        from caseback.model.prompts.pairs import pairs
        from caseback.model.running.load import load

        loaded = load(model)
        tokens = pairs(loaded, *pair)
        ends = [loaded.run(t).logits[0, int(t.column(-1)[0])] for t in tokens]
        t, f = contrast(loaded, target, foil, *ends)
        found = patched(
            loaded,
            *tokens,
            metric_named(metric, t, f),
            site=site,
            by=None if by is None else by.replace(",", " ").split(),
            layers=numbers(layers, "--layers"),
            heads=numbers(heads, "--heads"),
            pos=numbers(pos, "--pos"),
            units=numbers(units, "--units"),
            direction=direction,
            window=window,
            progress=sys.stderr.isatty(),
            checkpoint=checkpoint,
        )
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    else:
        from rich.console import Console

        from caseback.reports.maps import as_map
        from caseback.views.numbers_text import number
        from caseback.views.text.heatmap import print_map

        console = Console()
        said = told(loaded, metric, t, f)
        m_clean, m_corrupt = (number(float(found[name][0])) for name in ("clean", "corrupt"))
        console.print(f"{said}: clean {m_clean}, corrupt {m_corrupt}", highlight=False, markup=False, soft_wrap=True)
        into = "clean into corrupt" if direction == "denoising" else "corrupt into clean"
        title = f"Recovery (1 as clean, 0 as corrupt), {direction} ({into}) at {found.attrs['site']}"
        print_map(as_map(found.recovery), title, console, top=top)
    if save is not None:
        from caseback.reports.maps import as_map
        from caseback.views.figure.heatmap import heatmap, write_figure

        title = f"{direction} {found.attrs['site']}: {told(loaded, metric, t, f)}"
        drawn = heatmap(as_map(found.recovery), title=title, value="recovery")
        typer.echo(f"written to {write_figure(drawn, save)}", err=True)
