"""`caseback attribute`: which tokens of the prompt caused this, by several methods, and how far to trust them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.inputs import file_to, prompt_of
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError

DEFAULT_METHODS = "gradient_x_input,integrated_gradients"


def attribute(
    prompt: Annotated[
        str | None, typer.Argument(help="The text whose next token is explained.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"Methods by name, parted by commas, or all; --list names them. By default {DEFAULT_METHODS}.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The token explained; by default the model's first choice.", show_default=False)
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="Its contrast; by default the next choice.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help="logit_diff, logit, prob or log_prob.")] = "logit_diff",
    level: Annotated[str, typer.Option(help="Score each token, word or sentence.")] = "token",
    generate: Annotated[int, typer.Option(help="Also attribute so many generated tokens, one by one.")] = 0,
    continuation: Annotated[
        str | None, typer.Option(help="A continuation to attribute in place of a generated one.", show_default=False)
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Another continuation, token by token its foil.", show_default=False)
    ] = None,
    baseline: Annotated[str, typer.Option(help="What removed tokens become: mean, zero, pad, eos ...")] = "mean",
    ids: Annotated[bool, typer.Option("--ids", help="The prompt is token ids such as 5,1,2.")] = False,
    judge: Annotated[
        bool, typer.Option("--judge", help="No prompt: how often each method finds a source that is known.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="No prompt: name the methods.")] = False,
    seed: Annotated[int, typer.Option(help="Of random orders, and of the prompts of --judge.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write a page for the browser.", show_default=False)] = None,
) -> None:
    """Attribute a prediction to the prompt's tokens by several methods, side by side."""
    file_to(save)
    if (prompt is not None) + judge + listed != 1:
        raise CasebackError("expected one of a prompt, --judge (methods on models with a known source) and --list")
    if listed:
        return _list(as_json)
    # judging is of all methods unless some are named
    method = ("all" if judge else DEFAULT_METHODS) if method is None else method
    names = "all" if method == "all" else [name.strip() for name in method.split(",") if name.strip()]
    if judge:
        if save is not None:
            raise CasebackError("--judge prints a table, or JSON: leave out --save")
        return _judge(names, seed, as_json)
    assert prompt is not None
    wanted = prompt_of(prompt, ids)
    with quiet():
        from caseback.model.running.load import load
        from caseback.reports.attributions import compare_attributions

        loaded = load(model)
        made = compare_attributions(
            loaded,
            wanted,
            names,
            target=_token(loaded, target),
            foil=_token(loaded, foil),
            metric=metric,
            features=level,
            baseline=baseline,
            generate=generate,
            continuation=None if continuation is None else _text(continuation, ids),
            contrast=None if contrast is None else _text(contrast, ids),
            seed=seed,
            progress=sys.stderr.isatty(),
        )
    if as_json:
        typer.echo(json.dumps(made, allow_nan=False))
    else:
        from caseback.views.text.attributions import print_attributions

        print_attributions(made)
    if save is not None:
        from caseback.views.page.kinds import write_page

        typer.echo(f"written to {write_page(made, save)}", err=True)


def _token(model, text):
    """A token as the model looks it up: text, or a number where there is no tokenizer."""
    if text is None or model.tokenizer is not None:
        return text
    try:
        return int(text)
    except ValueError:
        raise CasebackError(f"{text!r} is no token id, and this model has no tokenizer: give a number") from None


def _text(text: str, ids: bool):
    # unlike a prompt, a continuation may be a space alone
    return prompt_of(text, True) if ids else text


def _list(as_json: bool) -> None:
    from caseback.localize.inputs import input_methods

    found = input_methods()
    if as_json:
        rows = [
            {"name": name, "entry": list(t.entry), "citation": t.citation, "cost": t.cost, "summary": t.summary}
            for name, t in found.items()
        ]
        typer.echo(json.dumps(rows))
        return
    wide = max(len(name) for name in found)
    for name, t in found.items():
        typer.echo(f"{', '.join(t.entry):<8} {name:<{wide}}  {t.summary}")


def _judge(names, seed: int, as_json: bool) -> None:
    with quiet():
        from caseback.localize.inputs import known_source_test

        found = known_source_test(names, seed=seed, progress=sys.stderr.isatty())
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
        return
    from rich.console import Console

    from caseback.views.text.judged import judged_text

    console = Console()
    for part in judged_text(found, ascii_only=console.options.ascii_only):
        console.print(part, highlight=False, markup=False)
