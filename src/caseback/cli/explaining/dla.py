"""`caseback dla`: a prediction as a sum of what each part of the model wrote for it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caseback.cli.inputs import contrast, file_to, metric_named, prompt_of, told
from caseback.cli.loading import DEFAULT_MODEL, quiet
from caseback.errors import CasebackError, did_you_mean

BY = {
    "component": "all components",
    "branch": "attention and MLPs",
    "layer": "layers",
    "head": "heads",
    "neuron": "MLPs, by neuron",
    "source": "heads, by the position they read",
}
"""What a prediction is split by, and what the parts shown are parts of."""
_SMALL = 0.05  # of the largest share tested: what is taken back of less matters to nobody


def dla(
    prompts: Annotated[list[str], typer.Argument(help="One prompt, or several whose shares are averaged.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model, a folder or a hub id.")] = DEFAULT_MODEL,
    target: Annotated[
        str | None, typer.Option(help="The token explained; by default the first prompt's.", show_default=False)
    ] = None,
    foil: Annotated[
        str | None, typer.Option(help="Its contrast; by default the next choice.", show_default=False)
    ] = None,
    metric: Annotated[str, typer.Option(help="logit_diff, or logit for the target alone.")] = "logit_diff",
    by: Annotated[str, typer.Option(help="component, branch, layer, head, neuron or source.")] = "component",
    top: Annotated[int, typer.Option(help="How many parts are shown by themselves.")] = 20,
    erased: Annotated[
        bool, typer.Option(help="By component: test which shares later parts take back, with one more run each.")
    ] = True,
    ids: Annotated[bool, typer.Option("--ids", help="The prompts are token ids such as 5,1,2.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the waterfall as an HTML page.", show_default=False)] = None,
) -> None:
    """Split a logit or a logit difference into the direct shares of the model's parts: a waterfall."""
    file_to(save)
    if by not in BY:
        raise CasebackError(f"--by {by!r} is unknown. {did_you_mean(by, list(BY))}")
    if top < 1:
        raise CasebackError(f"--top {top}: expected at least 1")
    if metric not in ("logit_diff", "logit"):
        raise CasebackError(f"--metric {metric!r}: only logit_diff and logit are sums of parts")
    given = [prompt_of(p, ids) for p in prompts]
    with quiet():
        from caseback.localize.components.erasure import erased_writes
        from caseback.model.running.load import load

        loaded = load(model)
        tokens = loaded.tokens(given)
        run = loaded.run(tokens)
        t, f = contrast(loaded, target, foil, run.logits[0, int(tokens.column(-1)[0])])
        measured = metric_named(metric, t, f)
        values = measured(run).tolist()
        found = _found(loaded, tokens, measured, by, top)
        test = erased and by == "component" and not as_json
        writes = erased_writes(loaded, tokens, measured) if test else None
    said = told(loaded, metric, t, f)
    if as_json:
        from caseback.reports.result_json import result_json

        typer.echo(json.dumps(result_json(found), allow_nan=False))
    if as_json and save is None:
        return
    from caseback.reports.waterfall import waterfall
    from caseback.views.figure.waterfall import waterfall_figure

    drawn = waterfall(_parts(found, by), top=top + _kept(found, by), whole=_whole(by))
    if not as_json:
        from rich.console import Console

        from caseback.views.text.waterfall import print_waterfall

        console = Console()
        _say(console, said, values)
        print_waterfall(drawn, f"Direct shares of {BY[by]}{_averaged(len(given))}", console)
        for line in [*_norm(found), *_erased(writes)]:
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
    if save is not None:
        from caseback.views.figure.heatmap import write_figure

        title = f"Direct shares of {BY[by]}: {said}"
        typer.echo(f"written to {write_figure(waterfall_figure(drawn, title=title, value=said), save)}", err=True)


def _found(model: Any, tokens: Any, metric: Any, by: str, top: int) -> Any:
    if by == "neuron":
        from caseback.localize.components.neuron_attribution import neuron_attribution

        return neuron_attribution(model, tokens, metric, top=top)
    if by == "source":
        from caseback.localize.components.source_attribution import source_attribution

        return source_attribution(model, tokens, metric)
    from caseback.localize.components.logit_attribution import logit_attribution

    # heads are told with the rest: the map of layers and heads has no place for what is no head's
    return logit_attribution(model, tokens, metric, by="component" if by == "head" else by)


def _parts(found: Any, by: str) -> Any:
    return found[found.kind == "head"] if by == "head" else found


def _kept(found: Any, by: str) -> int:
    """How many rows are shown besides the top: of neurons, what the MLPs write apart from those chosen."""
    return int((found.kind != "neuron").sum()) if by == "neuron" else 0


def _whole(by: str) -> str:
    return {"head": "heads", "source": "heads", "neuron": "MLPs"}.get(by, "sum")


def _averaged(prompts: int) -> str:
    return f" (mean of {prompts} prompts)" if prompts > 1 else ""


def _say(console: Any, said: str, values: list[float]) -> None:
    from caseback.views.numbers_text import number

    shown = ", ".join(number(v) for v in values[:6]) + (" ..." if len(values) > 6 else "")
    console.print(f"{said}: {shown}", highlight=False, markup=False, soft_wrap=True)


def _norm(found: Any) -> list[str]:
    """What the final norm and the unembedding do to the sum, and by how much it misses the model's own number."""
    from caseback.views.numbers_text import number, signed

    def mean(key: str) -> float:
        return sum(found.attrs[key]) / len(found.attrs[key])

    lines = []
    if "norm_bias" in found.attrs:
        scale = f"divides by {number(mean('norm_scale'))}, " if "norm_scale" in found.attrs else ""
        biases = f"its bias gives {signed(mean('norm_bias'))}, the unembedding's {signed(mean('unembed_bias'))}"
        lines.append(f"final norm: {scale}{biases}")
    gap = found.attrs["gap"]
    lines.append(f"sum less the model's own number: {signed(max(gap if isinstance(gap, list) else [gap], key=abs))}")
    if "softcap" in found.attrs:
        lines.append(f"the logits before their soft cap of {number(found.attrs['softcap'])}")
    return lines


def _erased(writes: Any) -> list[str]:
    """The components whose share a later one takes back, with the one that takes most; the largest first."""
    import numpy as np

    from caseback.views.numbers_text import percent, signed

    if writes is None:
        return []
    lines = []
    shares, fractions = (writes[key].mean("batch").values for key in ("share", "fraction"))
    for i, name in enumerate(writes.component.values.tolist()):
        flagged = bool(writes.flagged[i].any()) and fractions[i] >= writes.attrs["at_least"]
        if not flagged or abs(shares[i]) < _SMALL * np.abs(shares).max():
            continue
        by = writes.path.values[int(np.abs(writes.erased[i].mean("batch").values).argmax())]
        lines.append(f"{name} {signed(shares[i])} ({percent(min(fractions[i], 1.0))}, most by {by})")
    return [f"taken back by later parts, so no reason of the prediction: {'; '.join(lines)}"] if lines else []
