"""`caseback explain`: why the model predicted this token and not that one, with checks of every claim."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError


def explain(
    prompt: Annotated[
        str | None, typer.Argument(help="The text whose next token is explained.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target: Annotated[
        str | None,
        typer.Option(help="The token to explain; by default the model's first choice.", show_default=False),
    ] = None,
    foil: Annotated[
        str | None,
        typer.Option(help="The token to contrast it with; by default the next choice.", show_default=False),
    ] = None,
    corrupt: Annotated[
        str | None,
        typer.Option(
            help="The same prompt with another answer, as many tokens long; ids with --ids.", show_default=False
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(help="Token ids such as 5,1,2, in place of a prompt.", show_default=False)
    ] = None,
    ablation: Annotated[str, typer.Option(help="What stands in for an ablated component: zero or mean.")] = "zero",
    html: Annotated[
        Path | None, typer.Option(help="Write a page for the browser to this file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
) -> None:
    """Explain why the model predicts a token: inputs, components, layers, and checks."""
    if (prompt is None) == (ids is None):
        raise CasebackError(
            "no prompt given: expected a text, or --ids 5,1,2"
            if prompt is None
            else "both a prompt and --ids given: expected one of them"
        )
    wanted = prompt if ids is None else _ids(ids)
    if prompt is not None and not prompt.strip():
        raise CasebackError(f"the prompt is empty ({prompt!r}): expected some text")
    if html is not None and not html.parent.is_dir():
        raise CasebackError(f"cannot write {str(html)!r}: there is no folder {str(html.parent)!r}")
    with quiet():
        from caseback.model.running.load import load
        from caseback.reports.explain import explain as explained

        loaded = load(model)
        token = (lambda text: text) if loaded.tokenizer is not None else _id
        made = explained(
            loaded,
            wanted,
            target=None if target is None else token(target),
            foil=None if foil is None else token(foil),
            corrupt=corrupt if ids is None or corrupt is None else _ids(corrupt),
            ablation=ablation,
            progress=sys.stderr.isatty(),
        )
    if as_json:
        # ASCII, since a token may be half a character, which no encoding can print
        typer.echo(json.dumps(made, allow_nan=False))
    else:
        from caseback.views.text.explanation import print_explanation

        print_explanation(made)
    if html is not None:
        from caseback.views.page.kinds import write_page

        typer.echo(f"written to {write_page(made, html)}", err=True)


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise CasebackError(f"--ids {text!r}: expected whole numbers such as 5,1,2") from None


def _id(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise CasebackError(
            f"{text!r} is no token id, and this model has no tokenizer to look it up: give a number"
        ) from None
