"""`caseback influence`: which lines of a training corpus bear on a prediction."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError, did_you_mean

METHODS = {
    "ekfac": "influence, EK-FAC",
    "kfac": "influence, K-FAC",
    "fisher": "influence, Fisher matrix of projected gradients",
    "gauss_newton": "influence, exact Gauss-Newton",
    "trak": "TRAK",
    "tracin": "TracIn",
    "datainf": "DataInf",
    "cosine": "cosine of gradients",
    "dot": "dot product of gradients",
    "bm25": "BM25",
    "representation": "likeness of representations",
}
_NO_ROWS = ("gauss_newton", "bm25", "representation")
_STORED_RANK = 32


def influence(
    query: Annotated[str, typer.Argument(help="The text whose likelihood is explained.", show_default=False)],
    corpus: Annotated[
        Path | None,
        typer.Option(help="Training texts, one a line; not needed where --store is complete.", show_default=False),
    ] = None,
    completion: Annotated[
        str | None,
        typer.Option(help="What follows the query, of which alone the likelihood is explained.", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help=", ".join(METHODS) + ".")] = "ekfac",
    checkpoints: Annotated[
        str | None, typer.Option(help="trak, tracin: folders or hub ids, with commas between.", show_default=False)
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="tracin: learning rates, one or one a checkpoint.", show_default=False)
    ] = None,
    parts: Annotated[str, typer.Option(help="attn, mlp, embed, unembed, or patterns of module paths.")] = "attn,mlp",
    rank: Annotated[
        int | None,
        typer.Option(help="ekfac, kfac: directions kept a side; all, but 32 with --store.", show_default=False),
    ] = None,
    dim: Annotated[
        int, typer.Option(help="fisher: directions a side; trak: dimensions; of their random projections.")
    ] = 0,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens at which lines are split; the context.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="A folder that keeps the corpus's gradients.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(help="How many lines are shown.")] = 10,
    end: Annotated[str, typer.Option(help="highest, lowest or strongest scores.")] = "highest",
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Find the training texts that bear on a prediction."""
    if method not in METHODS:
        raise CasebackError(f"--method {method!r} is unknown. {did_you_mean(method, METHODS)}")
    if store is not None and method in _NO_ROWS:
        raise CasebackError(f"--store with --method {method}: it keeps no gradients")
    if checkpoints is not None and method not in ("trak", "tracin"):
        raise CasebackError(f"--checkpoints with --method {method}: only trak and tracin take several")
    if corpus is None and store is None:
        raise CasebackError("no corpus: give --corpus FILE, or --store with the folder of one that was read before")
    lines = None if corpus is None else _lines(corpus)
    with quiet():
        from caseback.localize.inputs import top_examples
        from caseback.model.running.load import load

        loaded = load(model)
        # a query that is a text is one row; with a completion, the pair of both
        asked: Any = query if completion is None else (query, completion)
        shared = {"max_length": max_length}
        if method != "bm25":
            shared["progress"] = sys.stderr.isatty()
        if method not in ("bm25", "representation"):
            shared |= {"parts": parts.replace(",", " ").split(), "store": store}
        found = _scored(loaded, asked, lines, method, shared, rank, dim, checkpoints, rates)
        best = top_examples(found, top, end=end)
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(best), allow_nan=False))
        return
    from rich.console import Console

    from caseback.views.text.examples import print_examples

    console = Console()
    print_examples(best, f"{METHODS[method]}, {found.sizes['example']} examples, {end} scores", console)
    for said in _said(found):
        console.print(said, style="dim", highlight=False, markup=False, soft_wrap=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CasebackError(f"cannot read {str(path)!r} as UTF-8 text: {error}") from None


def _scored(
    model: Any,
    asked: Any,
    lines: list[str] | None,
    method: str,
    shared: dict[str, Any],
    rank: int | None,
    dim: int,
    checkpoints: str | None,
    rates: str | None,
) -> Any:
    from caseback.localize import inputs

    several = None if checkpoints is None else checkpoints.replace(",", " ").split()
    if method in ("ekfac", "kfac"):
        rank = _STORED_RANK if rank is None and shared["store"] is not None else rank
        return inputs.influence_functions(model, asked, lines, curvature=method, rank=rank, **shared)
    if method == "fisher":
        projection = inputs.Projection("logra", dim or 16)
        return inputs.influence_functions(model, asked, lines, curvature=method, projection=projection, **shared)
    if method == "gauss_newton":
        return inputs.influence_functions(model, asked, lines, curvature=method, **shared)
    if method == "trak":
        projection = inputs.Projection("sparse", dim or 4096)
        return inputs.trak(model, asked, lines, checkpoints=several, projection=projection, **shared)
    if method == "tracin":
        return inputs.tracin(model, asked, lines, checkpoints=several, rates=_rates(rates), **shared)
    if method == "datainf":
        return inputs.datainf(model, asked, lines, **shared)
    if method in ("cosine", "dot"):
        return inputs.gradient_similarity(model, asked, lines, kind=method, **shared)
    return (inputs.bm25 if method == "bm25" else inputs.representation_similarity)(model, asked, lines, **shared)


def _rates(text: str | None) -> float | list[float] | None:
    if text is None:
        return None
    try:
        made = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise CasebackError(f"--rates {text!r}: expected numbers such as 0.1,0.05") from None
    return made[0] if len(made) == 1 else made


def _said(found: Any) -> list[str]:
    """What was included, and what became of lines that did not fit."""
    from caseback.views.numbers_text import percent

    attrs, made = found.attrs, []
    if "share_of_parameters" in attrs:
        share = percent(min(1.0, attrs["share_of_parameters"]))
        made.append(f"gradients of {attrs['parts']}: {int(attrs['parameters']):,} parameters, {share} of the model's")
    if attrs.get("rank") is not None:
        kept = percent(min(1.0, attrs["curvature_kept"]))
        made.append(f"{attrs['rank']} directions kept on each side of a matrix: {kept} of the curvature's trace")
    if attrs["split_lines"]:
        made.append(f"{attrs['split_lines']} lines past the context were split into {attrs['split_into']} parts")
    if attrs["lines_left_out"]:
        made.append(f"{attrs['lines_left_out']} lines of fewer than 2 tokens were left out")
    return made
