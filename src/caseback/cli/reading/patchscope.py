"""`caseback patchscope`: a state of one prompt put into words by another."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.inputs import file_to, numbers, prompt_of
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError, did_you_mean

READY = ("identity", "description", "selfie")


def patchscope(
    source: Annotated[str, typer.Argument(help="The prompt whose states are read.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target_prompt: Annotated[
        str, typer.Option(help=f"What puts them into words: {', '.join(READY)}, or a prompt with --placeholder.")
    ] = "identity",
    placeholder: Annotated[
        str | None,
        typer.Option(help="The token of the target prompt that is replaced (its last).", show_default=False),
    ] = None,
    target_model: Annotated[
        str | None, typer.Option(help="The model that says it; by default the same.", show_default=False)
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers after which the source is read, such as 0,2-4; by default all.", show_default=False),
    ] = None,
    target_layer: Annotated[
        int | None,
        typer.Option(help="The layer after which the target is written; by default the same.", show_default=False),
    ] = None,
    pos: Annotated[str | None, typer.Option(help="Positions, such as -1; by default all.", show_default=False)] = None,
    lens: Annotated[
        Path | None, typer.Option(help="A fitted lens that maps the state on its way.", show_default=False)
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(help="The token that should be said; by default the source's own choice.", show_default=False),
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens are generated.")] = 8,
    ids: Annotated[bool, typer.Option("--ids", help="Source and target prompt are token ids such as 5,1,2.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the grid as an HTML page.", show_default=False)] = None,
) -> None:
    """Write states of a prompt into another prompt, and see what the model makes of them."""
    file_to(save)
    if ids and target_prompt in READY:
        raise CasebackError(f"--target-prompt {target_prompt!r} is text: with --ids give token ids")
    given, at = prompt_of(source, ids), numbers(pos, "--pos")
    wanted = numbers(layer, "--layer")
    with quiet():
        from caseback.decode.vocabulary import load_lens
        from caseback.decode.vocabulary import patchscope as scope
        from caseback.model.running.load import load

        loaded = load(model)
        onto = None if target_model is None else load(target_model)
        # a layer's number means the stream after it, as everywhere on the command line
        rows = None if wanted is None else [_row(i, loaded.n_layers) for i in wanted]
        found = scope(
            loaded,
            [given],
            _target(target_prompt, placeholder, ids),
            rows=rows,
            pos=at,
            target_row=None if target_layer is None else _row(target_layer, (onto or loaded).n_layers),
            mapping=None if lens is None else load_lens(lens),
            target_model=onto,
            answers=answer,
            max_new_tokens=tokens,
        )
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    else:
        _say(found, loaded)
    if save is not None:
        from caseback.views.figure.heatmap import write_figure
        from caseback.views.figure.lens_grid import lens_grid

        typer.echo(f"written to {write_figure(lens_grid(found, title=f'patchscope: {target_prompt}'), save)}", err=True)


def _row(layer: int, n_layers: int) -> int:
    if not -1 <= layer < n_layers:
        raise CasebackError(f"layer {layer}: expected 0 to {n_layers - 1}, or -1 for the embedding")
    return layer + 1


def _target(text: str, placeholder: str | None, ids: bool) -> Any:
    from caseback.decode.vocabulary import TargetPrompt, description, selfie, token_identity

    ready = {"identity": token_identity, "description": description, "selfie": selfie}
    if text in ready:
        return ready[text]() if placeholder is None else ready[text](placeholder=placeholder)
    if " " not in text.strip() and not ids and placeholder is None:
        raise CasebackError(f"--target-prompt {text!r} is unknown. {did_you_mean(text, READY)}")
    if ids:
        return prompt_of(text, ids)
    return TargetPrompt(text, "x" if placeholder is None else placeholder)


def _say(found: Any, loaded: Any) -> None:
    """One line a place: what is read there, and what is said of it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from caseback.reports.tokens_text import visible
    from caseback.views.numbers_text import number, percent

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    asked = "surprisal" in found
    for name in ("after", "token", "says", "p", *(["answer", "surprisal"] if asked else []), "said"):
        table.add_column(Text(name), overflow="fold")
    one = found.isel(batch=0)
    for j in range(one.sizes["pos"]):
        for i, layer in enumerate(one["layer"].values.tolist()):
            at = one.isel(layer=i, pos=j)
            line = [str(layer), f"{one['pos'].values[j]} {visible(str(at['token'].item()))}"]
            line += [visible(str(at["top_text"].values[0])), percent(float(at["top_prob"][0]))]
            if asked:
                line += [visible(str(at["answer"].item())), number(float(at["surprisal"]))]
            table.add_row(*(Text(x) for x in [*line, visible(str(at["said"].item())) if "said" in at else ""]))
    console = Console()
    console.print(table, highlight=False, markup=False)
    if asked:
        share = percent(float(found["hit"].mean()))
        console.print(f"the answer is said first in {share} of the places", highlight=False, markup=False)
