"""Inference-time intervention: the few heads whose z tells true from false, moved along what tells it.

    z_h <- z_h + alpha sigma_h theta_h        for the K heads whose probe is right most often on held-out groups

Of heads whose probes are equally right, as many are on few prompts, those come first whose probes are surprised least.
theta_h is a unit vector, from one class's mean to the other's or a probe's normal; sigma_h is the standard deviation of
z . theta_h over the prompts. Added at the last token of each step, or at all tokens: these are different interventions
(the authors' repository has both, and the second, built into a bias, does less).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.directions.find import find_directions
from caseback.decode.probes.linear_probe import linear_probe
from caseback.decode.states import States, read_states
from caseback.errors import OutOfRange
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

LAST_TOKEN = slice(-1, None)
"""A prompt's last token, and every one that is generated after it: one a step, as the paper has it."""


@technique(
    entry=("4.2.9",),
    citation="Li et al. 2023a",
    cost="one forward of all prompts, and a logistic probe for each head",
)
def inference_time_intervention(
    model: Model,
    prompts: PromptsLike,
    labels: Sequence[Any] | Tensor | np.ndarray,
    *,
    heads: int = 48,
    strength: float = 15.0,
    direction: Literal["mass_mean", "probe"] = "mass_mean",
    positive: Any = None,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    pos: Positions = -1,
    n_folds: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> Directions:
    """Choose the heads that tell two classes apart, and how far to move each.

    Parameters
    ----------
    model
        The model.
    prompts
        Questions with answers, or whatever shows the two classes.
    labels
        One for each prompt, of two classes.
    heads
        How many heads are moved; 48 is the authors' number for LLaMA-7B's 1,024.
    strength
        In standard deviations; the authors' number. ``write`` has it in it.
    direction
        ``"mass_mean"``, from one class's mean to the other's, or ``"probe"``, the normal of a logistic probe.
    positive
        The class that is moved to; by default the later one, sorted.
    groups
        What each prompt belongs to (its question): a group is never on both sides of the split.
    pos
        Where heads are read; the last token by default.
    n_folds
        One of so many parts is held out to choose heads by.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    Directions
        At the chosen heads' ``z``, the best first. ``write`` is strength * sigma * theta, so ``found.edits()`` is the
        intervention at all tokens and ``found.edits(pos=LAST_TOKEN)`` the one at the last token of each step. ``table``
        has ``find_directions``'s columns, and ``probe`` (the accuracy that chose), ``bits`` (its mean surprise,
        which chose among equals) and ``sigma``.

    Raises
    ------
    OutOfRange
        For more heads than there are.
    CasebackError
        For labels of other than two classes, or too few groups.

    Notes
    -----
    Entry 4.2.9: Li et al. 2023a.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = [f"the {noun} is {word}" for noun in ("sun", "bread", "soup", "tea", "milk", "house")
    ...          for word in ("warm", "cold")]
    >>> found = inference_time_intervention(model, texts, ["warm", "cold"] * 6, heads=2, positive="warm")
    >>> len(found.names), [edit.site for edit in found.edits(pos=LAST_TOKEN)][0]
    (2, 'z')
    """
    total = sum(parts.dims.n_heads for parts in model.anatomy.layers)
    if not 1 <= heads <= total:
        raise OutOfRange(f"heads={heads}: expected 1 to {total}, all heads of {model.name!r}")
    states = _that_vary(read_states(model, prompts, sites="z", pos=pos, progress=progress))
    if heads > len(states.places):
        raise OutOfRange(f"heads={heads}: only {len(states.places)} heads differ from prompt to prompt at pos={pos}")
    how = {"groups": groups, "n_folds": n_folds, "seed": seed}
    way = "mean_difference" if direction == "mass_mean" else "logistic"
    every = find_directions(states, labels, method=way, positive=positive, **how)
    probes = linear_probe(states.x, labels, sites=states.names, resamples=1, **how).table
    accuracy, bits = probes.accuracy.values, probes.bits.values
    chosen = np.lexsort((bits, -accuracy))[:heads].tolist()
    theta = (every.write if direction == "mass_mean" else every.detect)[chosen]
    theta = theta / theta.norm(dim=1, keepdim=True)
    sigma = (in_float64(states.x[chosen]) @ theta[..., None])[..., 0].std(1, unbiased=False)
    best = every.at([states.names[row] for row in chosen])
    table = best.table.assign(
        probe=("site", accuracy[chosen]), bits=("site", bits[chosen]), sigma=("site", sigma.cpu().numpy())
    )
    table.attrs |= {"method": f"inference-time intervention, {direction}", "strength": strength}
    return replace(best, write=strength * sigma[:, None] * theta, table=table)


def _that_vary(states: States) -> States:
    """The heads that most prompts move: one that looks at the first token alone says the same of all."""
    differs = in_float64((states.x != states.x[:, :1]).any(2)).mean(1) >= 0.5
    places = [place for place, moved in zip(states.places, differs.tolist(), strict=True) if moved]
    return States(states.x[differs], places, states.prompt)
