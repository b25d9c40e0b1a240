"""`caseback align`: in which layer and at which position the thing that a task's two prompts differ in lies."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import file_to, numbers
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError, did_you_mean

METHODS = ("das", "full")


def align(
    task: Annotated[str, typer.Argument(help="A task with one answer each, such as agreement.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="das: a subspace is searched; full: the whole activation.")] = "das",
    k: Annotated[int, typer.Option("--k", help="Dimensions of the subspace.")] = 1,
    site: Annotated[str, typer.Option(help="Where: resid_post, mlp_out, attn_out, z ...")] = "resid_post",
    layers: Annotated[str | None, typer.Option(help="Such as 0,2-4; all by default.", show_default=False)] = None,
    heads: Annotated[str | None, typer.Option(help="Such as 0,2-4, one by one.", show_default=False)] = None,
    pos: Annotated[
        str | None, typer.Option(help="Positions such as 2-5,-1; all by default.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Pairs of prompts, each used both ways.")] = 100,
    held_out: Annotated[float, typer.Option(help="The share of them that accuracy is measured on.")] = 0.2,
    epochs: Annotated[int, typer.Option(help="Passes over the rest in each search.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    lr: Annotated[float, typer.Option(help="The learning rate.")] = 0.01,
    all_tokens: Annotated[
        bool, typer.Option("--all-tokens", help="Choose answers from the whole vocabulary, not the task's answers.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same examples and searches.")] = 0,
    top: Annotated[int, typer.Option(help="How many of the best places are listed.")] = 5,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A folder to go on from after an interruption.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the map as an HTML page.", show_default=False)] = None,
) -> None:
    """Search where a variable lies: interchange accuracy at every layer and position, on examples held out."""
    file_to(save)
    if method not in METHODS:
        raise CasebackError(f"--method {method!r} is unknown. {did_you_mean(method, METHODS)}")
    with quiet():
        from caseback.localize.abstraction import Interchanges, das_map, interchange_map
        from caseback.model.running.load import load
        from caseback.tasks.task import get

        loaded = load(model)
        data = Interchanges.of_pairs(get(task).prompts(loaded, count, seed=seed))
        among = None if all_tokens else sorted({*data.target.tolist(), *data.base_target.tolist()})
        where = {
            "site": site,
            "layers": numbers(layers, "--layers"),
            "heads": numbers(heads, "--heads"),
            "pos": numbers(pos, "--pos"),
            "among": among,
            "progress": sys.stderr.isatty(),
        }
        if method == "full":
            found = interchange_map(loaded, data.split(held_out, seed)[1], **where)
        else:
            found = das_map(
                loaded,
                data,
                k=k,
                held_out=held_out,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                seed=seed,
                checkpoint=checkpoint,
                **where,
            )
    what = "the whole activation" if method == "full" else f"a subspace of {k}"
    title = f"Interchange accuracy of {what} at {found.attrs['site']}, {task}"
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    else:
        from rich.console import Console

        from caseback.reports.maps import as_map
        from caseback.views.text.heatmap import print_map

        console = Console()
        if method == "das":
            told = (
                f"{found.attrs['held_out']} examples held out; swapping nothing {found.attrs['no_swap_accuracy']:.2f}"
            )
            chance = f"; a random subspace {float(found.random.max()):.2f} at best"
            console.print(told + chance, highlight=False, markup=False, soft_wrap=True)
        print_map(as_map(found), title, console, top=top)
    if save is not None:
        from caseback.reports.maps import as_map
        from caseback.views.figure.heatmap import heatmap, write_figure

        drawn = heatmap(as_map(found), title=title, value="accuracy")
        typer.echo(f"written to {write_figure(drawn, save)}", err=True)
