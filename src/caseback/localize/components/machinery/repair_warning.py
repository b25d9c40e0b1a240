"""The warning that an ablation's effect carries: how much of the direct effect did it fail to show (PRIMER 3.2.18)?

    repaired(c) = (direct(c) - effect(c)) / direct(c)

Later parts make up for what is ablated, so a small effect is no sign that a component does little. The direct effect
costs one more run for all components, and set beside the effect it says which of them to distrust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from caseback.errors import CasebackError
from caseback.model.algebra.direct import LAST, direct_effects, direction_of
from caseback.model.graph.units import Component, site_of
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens

NOTABLE = 0.05
"""The share of the largest direct effect of a prompt from which on a fraction of one says something."""


def self_repair_warning(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    chosen: Sequence[Component],
    edits: Sequence[Edit],
    effects: np.ndarray,
) -> tuple[dict[str, Any], str]:
    """What an ablation's effects do not show of the components' direct effects.

    Parameters
    ----------
    model, tokens, metric
        What was ablated and measured.
    chosen
        The components.
    edits
        What ablated each: one edit per component, or equally many, one component's after another.
    effects
        (component, batch), the metric lost.

    Returns
    -------
    Coordinates for the effects, ``direct`` and ``repaired`` (component, batch), the latter NaN where the direct effect
    is below a twentieth of the prompt's largest; and one sentence. Where there is no direct effect to compare with, as
    for a metric that is not linear in the logits, there are no coordinates and the sentence says why.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens, edits = model.tokens("the cat and the dog"), [cb.Zero("z", layer=0, head=0)]
    >>> coords, sentence = self_repair_warning(model, tokens, cb.prob(" cat"), [(0, 0)], edits, np.zeros((1, 1)))
    >>> coords, sentence.split(":")[0]
    ({}, 'not known')
    """
    if model.anatomy.logit_softcap is not None:
        return {}, "not known: the logits are softly capped and shares are of those before; self_repair measures both"
    try:
        direction = direction_of(model, tokens, metric)
        run = execute(model.anatomy, tokens, read=[*map(site_of, chosen), LAST], logits=False)
        reading = direction.reading(direction.stream(run))
        draws = len(edits) // len(chosen)
        each = [direct_effects(direction, run, reading, chosen, edits[i::draws]) for i in range(draws)]
    except CasebackError as error:
        return {}, f"not known: {error}"
    direct = torch.stack(each).mean(0).cpu().double().numpy()
    notable = (np.abs(direct) >= NOTABLE * np.abs(direct).max(0)) & (direct != 0)
    repaired = np.where(notable, (direct - effects) / np.where(notable, direct, 1.0), np.nan)
    coords = {"direct": (("component", "batch"), direct), "repaired": (("component", "batch"), repaired)}
    return coords, _sentence(direct, effects, notable)


def _sentence(direct: np.ndarray, effects: np.ndarray, notable: np.ndarray) -> str:
    """Over prompts, so that the sentence is about components."""
    among = notable.any(1)
    if not among.any():
        return "no component has a direct effect: what was ablated acts through others only"
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = direct.mean(1) - effects.mean(1)
        hidden = among & (lost / direct.mean(1) > 0.5)
    return (
        f"{int(hidden.sum())} of {int(among.sum())} components with a notable direct effect lose less than half of it "
        "when ablated, since later parts make up for it: a small effect of these is no sign that they do little"
    )
