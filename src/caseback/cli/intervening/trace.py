"""`caseback trace`: causal tracing, where the model recalls what it knows of a subject."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import contrast, file_to, metric_named, numbers, prompt_of, told
from caseback.cli.loading import DEFAULT_MODEL, quiet


def trace(
    prompt: Annotated[str, typer.Argument(help="The prompt, such as 'The Eiffel Tower is in'.", show_default=False)],
    subject: Annotated[
        str, typer.Option(help="The text in the prompt that gets noise (positions with --ids).", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target: Annotated[
        str | None, typer.Option(help="The token measured; by default the model's first choice.", show_default=False)
    ] = None,
    foil: Annotated[str | None, typer.Option(help="For logit_diff: its contrast.", show_default=False)] = None,
    metric: Annotated[str, typer.Option(help="prob, logit_diff, logit or log_prob.")] = "prob",
    sigma: Annotated[
        float | None, typer.Option(help="The noise; by default 3 x the embeddings' deviation.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="Draws of noise.")] = 10,
    window: Annotated[
        int | None,
        typer.Option(help="Layers of MLP or attention restored together; by default 10.", show_default=False),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Such as 0,2-4; all by default.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="What the noise follows from.")] = 0,
    top: Annotated[int, typer.Option(help="How many of the largest effects are listed for each state.")] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is token ids such as 5,1,2.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file to go on from after an interruption.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the maps as an HTML page.", show_default=False)] = None,
) -> None:
    """Add noise to a subject and restore clean states one at a time: what brings the answer back."""
    file_to(save)
    given = prompt_of(prompt, ids)
    with quiet():
        from caseback.localize.components.tracing import causal_trace
        from caseback.model.running.load import load

        loaded = load(model)
        tokens = loaded.tokens([given])
        final = loaded.run(tokens).logits[0, -1]
        t, f = contrast(loaded, target, foil, final)
        found = causal_trace(
            loaded,
            tokens,
            metric_named(metric, t, f),
            subject=numbers(subject, "--subject") if ids else subject,
            sigma=sigma,
            samples=samples,
            window=window,
            layers=numbers(layers, "--layers"),
            seed=seed,
            progress=sys.stderr.isatty(),
            checkpoint=checkpoint,
        )
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    if as_json and save is None:
        return
    from caseback.reports.maps import as_map

    shown = {"resid_post": "stream after one layer", "mlp_out": "MLP", "attn_out": "attention"}
    around = f" in {found.attrs['window']} layers around"
    maps = {
        shown[name] + ("" if name == "resid_post" else around): as_map(found.indirect.sel(component=name))
        for name in found.component.values.tolist()
    }
    said = told(loaded, metric, t, f)
    if not as_json:
        from rich.console import Console

        from caseback.views.numbers_text import number
        from caseback.views.text.heatmap import print_map

        console = Console()
        m = {name: number(float(found[name][0])) for name in ("clean", "corrupt", "total", "total_spread")}
        noise = f"{samples} draws of noise, sigma {number(found.attrs['sigma'])}"
        line = f"{said}: clean {m['clean']}, corrupted {m['corrupt']} (sd {m['total_spread']} over {noise})"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"Total effect {m['total']}", highlight=False)
        for name, drawn in maps.items():
            console.print()
            print_map(drawn, f"Restoring {name}: indirect effect", console, top=top)
    if save is not None:
        from caseback.views.figure.heatmap import heatmap, write_figure

        figure = heatmap(maps, title=f"Causal trace: {said}", value="indirect effect")
        typer.echo(f"written to {write_figure(figure, save)}", err=True)
