"""Head importance and head pruning: gates on heads (PRIMER 3.2.1).

    z_h -> xi_h z_h,    I_h = E_x |dm / dxi_h| = E_x |sum_i z_h,i . dm/dz_h,i|    at xi = 1

To first order I_h is how far the metric moves when the head's gate is closed, whichever way. Michel et al. divide the
importances of a layer by their l2 norm, prune the least important heads first and watch the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.coerce import in_float64
from caseback.model.graph.units import components_of, name_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Zero
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

SHARES = tuple(i / 10 for i in range(1, 11))
"""Michel et al. take away a tenth of the heads at a time."""


@technique(role="component effect", entry=("3.2.1",), citation="Michel et al. 2019", cost="forward + backward")
def head_importance(model: Model, tokens: PromptsLike, metric: Metric, *, normalise: bool = True) -> xr.Dataset:
    """How much each head's gate matters to the metric, to first order.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. The expectation is over them.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The paper takes the loss, ``cb.loss()``.
    normalise
        Divide by the l2 norm over each layer's heads, as in the paper.

    Returns
    -------
    xr.Dataset
        ``gradient`` (component, batch), dm/dxi with its sign; ``importance`` (component), the mean of its size over
        prompts, and ``spread`` (component), the standard deviation, both divided by the layer's norm if asked for.
        Beside them each head's ``layer`` and ``head``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> heads = head_importance(model, ["the cat and the dog", "Mary went home"], cb.loss())
    >>> heads.sizes["component"] == model.n_layers * model.n_heads, bool((heads.importance >= 0).all())
    (True, True)
    """
    tokens = model.tokens(tokens)
    gates = _gates(model, tokens, metric)
    layer = _layer_of_heads(model)
    mean, spread = _importance(gates, layer, normalise)
    coords = _coords(model)
    attrs = {"technique": head_importance, "model": model, "metric": metric.name, "normalised": normalise}
    variables = {
        "gradient": labelled(gates, ["component", "batch"], coords, name="gradient", **attrs),
        "importance": labelled(mean, ["component"], coords, name="importance", **attrs),
        "spread": labelled(spread, ["component"], coords, name="spread", **attrs),
    }
    return xr.Dataset(variables, attrs=variables["importance"].attrs)


@technique(
    role="component effect",
    entry=("3.2.1",),
    citation="Michel et al. 2019",
    cost="forward + backward (per step, where scored anew) + a forward per step",
)
def prune_heads(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    score: Metric | None = None,
    shares: Sequence[float] = SHARES,
    rescore: bool = False,
    normalise: bool = True,
    progress: bool = False,
) -> xr.Dataset:
    """Close the gates of the least important heads, one share after another, and measure after each step.

    Parameters
    ----------
    model
        The model. No weight is changed.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is measured after each step.
    score
        The metric that importance is the gradient of; ``metric`` by default.
    shares
        Shares of all heads that are gone after each step, rising; by tenths to the last head by default.
    rescore
        Compute importance anew of what is left before each step, rather than once at the start.
    normalise
        Of importance, as for ``head_importance``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``metric`` (variant, batch), before pruning and after each step, with how many heads are ``pruned`` and their
        ``share`` beside it; ``step`` (component), the step in which each head went, -1 where it stays.

    Raises
    ------
    CasebackError
        For shares that do not rise between 0 and 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> curve = prune_heads(model, "the cat and the dog", cb.loss(), shares=[0.25, 0.5])
    >>> curve.pruned.values.tolist() == [0, round(0.25 * curve.sizes["component"]), curve.sizes["component"] // 2]
    True
    """
    tokens = model.tokens(tokens)
    steps = [float(s) for s in shares]
    if not steps or not all(0 < a < b <= 1 for a, b in zip([1e-9, *steps], steps, strict=False)):
        raise CasebackError(f"shares={steps}: expected numbers that rise between 0 and 1, such as 0.1, 0.2, 0.5")
    layer = _layer_of_heads(model)
    heads = components_of(model, "heads")
    went = np.full(len(heads), -1)
    importance = None
    pruned = [0]
    for step, share in enumerate(steps):
        if importance is None or rescore:
            gates = _gates(model, tokens, score or metric, _closed(heads, went >= 0))
            importance, _ = _importance(gates, layer, normalise)
        n = round(share * len(heads)) - pruned[-1]
        order = np.argsort(np.where(went < 0, importance.numpy(), np.inf), kind="stable")
        went[order[:n]] = step
        pruned.append(pruned[-1] + n)
    variants = [_closed(heads, (went >= 0) & (went <= step)) for step in range(len(steps))]
    # a step too small for a single head has nothing to edit
    some = [i for i, edits in enumerate(variants) if edits]
    swept = model.sweep(
        tokens,
        [variants[i] for i in some],
        metric,
        labels=[f"{pruned[i + 1]} heads" for i in some],
        progress=progress,
    )
    values = np.stack([swept["clean"].values.astype(swept.dtype)] * (len(steps) + 1))
    values[[i + 1 for i in some]] = swept.values
    attrs = {
        "technique": prune_heads,
        "model": model,
        "metric": metric.name,
        "score": (score or metric).name,
        "rescored": rescore,
        "normalised": normalise,
    }
    of_steps = {"pruned": ("variant", pruned), "share": ("variant", [0.0, *steps])}
    variables = {
        "metric": labelled(values, ["variant", "batch"], of_steps, name="metric", **attrs),
        "step": labelled(went, ["component"], _coords(model), name="step", **attrs),
    }
    return xr.Dataset(variables, attrs=variables["metric"].attrs)


def _gates(
    model: Model, tokens: Tokens, metric: Metric, edits: Sequence[Edit] = ()
) -> Float[Tensor, "component batch"]:
    """The metric's derivative by every head's gate, heads in the order of the computation."""
    run = model.run(tokens, read=["z"], edits=edits, grad=True)
    grads = run.grad(metric, ["z"], retain=False)
    real = tokens.mask[..., None, None]
    each = [in_float64(run["z", i].detach() * grads["z", i] * real).sum((1, 3)).T for i in range(model.n_layers)]
    return torch.cat(each).cpu()


def _importance(
    gates: Float[Tensor, "component batch"], layer: Tensor, normalise: bool
) -> tuple[Float[Tensor, " component"], Float[Tensor, " component"]]:
    mean, spread = gates.abs().mean(-1), gates.abs().std(-1, correction=0)
    if not normalise:
        return mean, spread
    norm = torch.zeros(int(layer.max()) + 1, dtype=mean.dtype).index_add(0, layer, mean.pow(2)).sqrt()[layer]
    norm = torch.where(norm > 0, norm, 1.0)  # a layer that does nothing is unimportant, not undefined
    return mean / norm, spread / norm


def _closed(heads: Sequence[Any], gone: np.ndarray) -> list[Edit]:
    """The edits that close gates, one per layer."""
    by_layer: dict[int, list[int]] = {}
    for (layer, head), closed in zip(heads, gone.tolist(), strict=True):
        if closed:
            by_layer.setdefault(layer, []).append(head)
    return [Zero("z", layer=layer, head=closed) for layer, closed in by_layer.items()]


def _layer_of_heads(model: Model) -> Tensor:
    return torch.tensor([layer for layer, _ in components_of(model, "heads")])


def _coords(model: Model) -> dict[str, Any]:
    heads = components_of(model, "heads")
    return {
        "component": [name_of(c) for c in heads],
        "layer": ("component", [layer for layer, _ in heads]),
        "head": ("component", [head for _, head in heads]),
    }
