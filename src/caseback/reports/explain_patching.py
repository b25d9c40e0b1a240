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

MAPS = {"resid_pre": "Residual stream", "attn_out": "Attention outputs", "mlp_out": "MLP outputs"}


def patching(
    model: Model, tokens: Tokens, corrupt: PromptsLike, metric: Metric, *, progress: bool = False
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
    maps = {
        site: patch(model, tokens, other, metric, site=site, by=("layer", "pos"), progress=progress) for site in MAPS
    }
    heads = patch(model, tokens, other, metric, site="z", by=("layer", "head"), progress=progress)
    width = max(p.dims.n_heads for p in model.anatomy.layers)
    return {
        "corrupt": [{"id": i, "text": text} for i, text in zip(other.ids[0].tolist(), other.text[0], strict=True)],
        "clean_metric": float(heads.clean[0]),
        "corrupt_metric": float(heads.corrupt[0]),
        "maps": [
            {"site": site, "label": label, "recovery": maps[site].recovery.isel(batch=0).values.tolist()}
            for site, label in MAPS.items()
        ],
        # a layer with fewer heads than others restores nothing through the heads it lacks
        "heads": heads.recovery.isel(batch=0).fillna(0.0).reindex(head=range(width), fill_value=0.0).values.tolist(),
        "entry": heads.attrs["entry"],
    }
