"""The part of an explanation that needs a counterfactual: which places carry what the two prompts differ in.

Clean activations are put into the corrupt run, one place at a time (denoising, PRIMER 3.2.7); each number is the share
of the metric's difference that this restores: 0 for the corrupt prompt's metric, 1 for the clean prompt's.
"""

from __future__ import annotations

from typing import Any

from caseback.localize.components.patching import patch
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.story.traces import Traces

MAPS = {"resid_pre": "Residual stream", "attn_out": "Attention outputs", "mlp_out": "MLP outputs"}


def patching(
    model: Model,
    tokens: Tokens,
    corrupt: PromptsLike,
    metric: Metric,
    *,
    traces: Traces | None = None,
    short: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Recovery by layer and position for the stream and both kinds of block, and by head, as plain data.

    Parameters
    ----------
    model
        The model.
    tokens
        One prompt.
    corrupt
        Its token-aligned counterfactual.
    metric
        What is measured, per prompt.
    traces
        What the story measured of the same pair: the map of the stream and the heads are then taken from it.
    short
        Leave out the blocks' maps.
    progress
        Show a progress bar.

    Raises
    ------
    TokensError
        If the two are not aligned.
    CasebackError
        If the metric is the same on both.
    """
    other = model.tokens(corrupt)
    sites = [site for site in MAPS if not (short and site != "resid_pre")]
    maps = {}
    layers = dict.fromkeys(sites, list(range(model.n_layers)))
    if traces is not None:
        maps["resid_pre"], layers["resid_pre"] = traces.stream[:-1].tolist(), list(traces.layers[:-1])
    for site in sites:
        if site not in maps:
            swept = patch(model, tokens, other, metric, site=site, by=("layer", "pos"), progress=progress)
            maps[site] = swept.recovery.isel(batch=0).values.tolist()
    clean, corrupted, heads = (
        _heads(model, tokens, other, metric, progress) if traces is None else _traced(model, traces)
    )
    return {
        "corrupt": [{"id": i, "text": text} for i, text in zip(other.ids[0].tolist(), other.text[0], strict=True)],
        "clean_metric": clean,
        "corrupt_metric": corrupted,
        "maps": [{"site": site, "label": MAPS[site], "layers": layers[site], "recovery": maps[site]} for site in sites],
        "heads": heads,
        "entry": "3.2.7, 3.2.8, 3.2.12",
    }


Heads = tuple[float, float, list[list[float | None]]]
"""The metric of both prompts, and what each head brings back: 0 where a layer has fewer heads than others, None where
a head was not exchanged."""


def _heads(model: Model, tokens: Tokens, other: Tokens, metric: Metric, progress: bool) -> Heads:
    site = model.anatomy.head_site
    heads = patch(model, tokens, other, metric, site=site, by=("layer", "head"), progress=progress)
    width = max(p.dims.n_heads for p in model.anatomy.layers)
    rows = heads.recovery.isel(batch=0).fillna(0.0).reindex(head=range(width), fill_value=0.0).values.tolist()
    return float(heads.clean[0]), float(heads.corrupt[0]), rows


def _traced(model: Model, traces: Traces) -> Heads:
    width = max(p.dims.n_heads for p in model.anatomy.layers)
    rows: list[list[float | None]] = [
        [None] * p.dims.n_heads + [0.0] * (width - p.dims.n_heads) for p in model.anatomy.layers
    ]
    for part in traces.parts:
        if part.head >= 0:
            rows[part.layer][part.head] = part.denoising
    return traces.clean, traces.corrupt, rows
