"""How much each head and each MLP bears on one prediction, measured, as a table of layers by heads.

Without a counterfactual a part is silenced, and its effect is what the metric loses. With one, what a part writes on
the prompt is put into the run on the counterfactual, and its effect is what the metric gains (denoising).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, TokensError
from caseback.localize.components import ablate, patch
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.arguments import checked
from caseback.model.running.metrics import logit_diff
from caseback.model.running.model import Model
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tokens_text import visible

__all__ = ["EFFECTS", "component_effects"]


@checked
def component_effects(
    model: Model,
    prompt: PromptsLike,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    corrupt: PromptsLike | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """What each head and MLP does to the logit difference of two answers.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, a list of token ids, or ``Tokens``.
    target, foil
        The answer and what it is set against; by default the model's first and second choice.
    corrupt
        A counterfactual of as many tokens; without it parts are silenced.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document: ``head``, (layer, head), and ``mlp``, (layer), in logits; None where a layer has fewer heads.

    Raises
    ------
    TokensError
        For several prompts, or a counterfactual of another length.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> effects = component_effects(model, "Mary and John went to the", target=" store", foil=" park")
    >>> len(effects["head"]) == model.n_layers, len(effects["mlp"]) == model.n_layers
    (True, True)
    """
    expect_tokens_out(model.anatomy, "component_effects")
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: component_effects takes one at a time")
    run = model.run(tokens)
    t, f = target_and_foil(model, run.logits[0, int(tokens.column(-1)[0])].detach(), target, foil, None)
    metric = logit_diff(t, f)
    if corrupt is None:
        effects = ablate(model, tokens, metric, kind="zero", progress=progress).isel(batch=0)
        heads, mlps = (_by_layer(model, effects[effects.kind.values == kind]) for kind in ("head", "mlp"))
    else:
        options: dict[str, Any] = {"normalise": False, "progress": progress}
        by_head = patch(model, tokens, corrupt, metric, site="z", by=["layer", "head"], **options)
        by_mlp = patch(model, tokens, corrupt, metric, site="mlp_out", by=["layer"], **options)
        heads = by_head.effect.isel(batch=0).transpose("layer", "head").values
        mlps = by_mlp.effect.isel(batch=0).values[:, None]
    return EFFECTS.document(
        model_facts(model),
        how="silenced" if corrupt is None else "restored",
        target=_token(model, t),
        foil=_token(model, f),
        value=float(metric(run)[0]),
        head=[[None if np.isnan(x) else float(x) for x in row] for row in heads],
        mlp=[None if np.isnan(x) else float(x) for x in mlps[:, 0]],
    )


def _token(model: Model, id: int) -> dict[str, Any]:
    text = model.token_text(id)
    return {"id": id, "text": text, "visible": visible(text)}


def _by_layer(model: Model, effects: xr.DataArray) -> np.ndarray:
    """(layer, head) of effects by component; NaN where there is no such component."""
    heads = np.maximum(effects["head"].values, 0)
    table = np.full((model.n_layers, int(heads.max(initial=0)) + 1), np.nan)
    table[effects["layer"].values, heads] = effects.values
    return table


def _lengths(document: Mapping[str, Any]) -> None:
    if len(document["head"]) != len(document["mlp"]):
        raise CasebackError(
            f"effects: {len(document['head'])} layers of heads and {len(document['mlp'])} MLPs do not fit"
        )


EFFECTS = DocumentKind(
    "caseback.effects",
    1,
    "a document of effects",
    "component_effects",
    sections=("how", "target", "foil", "value", "head", "mlp"),
    lengths=_lengths,
)
