"""Direct logit attribution: the metric as a sum of what each component wrote (PRIMER 3.2.2, 3.2.5).

    metric = sum_v a_v logit_v    ->    A(c) = c [M diag(gamma) u] / s,    u = scale * sum_v a_v W_U[:, v]

with c a write to the final stream and s the final norm's denominator, held at this run's. For a logit difference u is
the difference of two columns of W_U. The attributions and the biases' share sum to the metric. Only direct effects
count: what a component changes in later ones is theirs, and what a later one erases stays on its account (PRIMER
3.2.6).
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.decompose import logit_parts
from caseback.model.metrics import Bound, Metric
from caseback.model.model import Model
from caseback.model.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.run import Run
from caseback.model.weights import Weights


@technique(
    entry=("3.2.2", "3.2.5"),
    citation="nostalgebraist 2020, Elhage et al. 2021, Wang et al. 2023",
    cost="two forwards",
)
def logit_attribution(model: Model, tokens: Any, metric: Metric) -> xr.DataArray:
    """The direct share of every head, MLP, embedding and bias in a logit or a logit difference.

    Multipliers, norms behind branches, parallel blocks and the logit scale are accounted for; all norms on the way
    are held at their denominators in this run. Where the model caps its logits softly, it is the metric of the
    logits before the cap that is split, and the attribute ``softcap`` says so.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        A metric that is linear in the logits of one position: ``cb.logit``, ``cb.logit_diff``, or ``cb.function`` of
        any linear function of them.

    Returns
    -------
    xr.DataArray
        (component, batch), with the ``kind`` (embed, pos_embed, head, attn_bias, mlp, bias), ``layer`` and ``head``
        of each component beside it; -1 where it has none. ``bias`` is the final norm's and the unembedding's.
        Attributes, one number a prompt: ``metric_value`` (before a soft-cap) and ``gap``, the sum less that.

    Raises
    ------
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> shares = logit_attribution(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> abs(float(shares.sum()) - shares.attrs["metric_value"][0]) < 1e-3
    True
    >>> heads = shares[shares.kind == "head"]
    """
    tokens = model.tokens(tokens)
    if not isinstance(metric, Metric) or not isinstance(metric.pos, int | Tensor):
        raise CasebackError(
            "logit attribution needs a metric that reads one position, such as cb.logit_diff(target, foil)"
        )
    bound = metric.on(tokens, model.anatomy)
    weights, vocab = linear_weights(bound, metric, len(tokens), model)
    told = _uncapped(model, model.run(tokens, read=[("resid_post", -1)]), bound)
    w = Weights(model.anatomy)
    columns = at_least_float32(w.W_U.detach().T[vocab])
    direction = torch.einsum("bk,bkd->bd", weights.to(columns), columns) * model.anatomy.logit_scale
    shares = logit_parts(model, tokens, direction[:, None], pos=metric.pos).isel(k=0, drop=True)
    constant = (weights * at_least_float32(w.b_U.detach())[vocab]).sum(-1) * model.anatomy.logit_scale
    values = torch.from_numpy(shares.values.copy())
    values[shares.component.values.tolist().index("bias")] += constant.to(values)
    return labelled(
        values,
        ["component", "batch"],
        {
            "component": shares.component.values,
            **{c: ("component", shares[c].values) for c in ("kind", "layer", "head")},
        },
        name="share",
        technique=logit_attribution,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        metric_pos=metric.pos,
        metric_value=told.tolist(),
        gap=(values.sum(0) - told.to(values)).tolist(),
        softcap=model.anatomy.logit_softcap,
    )


def linear_weights(
    bound: Bound, metric: Metric, batch: int, model: Model
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """A metric's weight on each vocabulary entry that it reads, found by differentiating it.

    Raises
    ------
    CasebackError
        Where the metric is not linear.
    """
    vocab = bound.vocab
    if vocab is None:
        vocab = torch.arange(model.d_vocab, device=model.device).expand(batch, -1)
    rows = torch.arange(batch, device=model.device)

    def value_and_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.clone().requires_grad_()
            value = bound.value(logits, rows)
            if not value.requires_grad:
                return value, torch.zeros_like(logits)
            return value.detach(), torch.autograd.grad(value.sum(), logits)[0]

    probe = torch.linspace(-3, 5, vocab.numel(), dtype=torch.float64, device=model.device).sin().view(vocab.shape)
    at_zero, weights = value_and_weights(torch.zeros_like(probe))
    linear = torch.allclose(at_zero, torch.zeros_like(at_zero), atol=1e-9)
    # both ways, since a maximum or a rectifier is a straight line on one side
    for logits in (probe, -probe):
        value, again = value_and_weights(logits)
        linear &= torch.allclose(again, weights, atol=1e-6)
        linear &= torch.allclose(value, (weights * logits).sum(-1).to(value), atol=1e-4)
    if not linear:
        raise CasebackError(
            f"the metric {metric.name!r} is not linear in the logits, so it is no sum of components' shares: "
            "use cb.logit or cb.logit_diff"
        )
    return weights, vocab


@torch.no_grad()
def _uncapped(model: Model, run: Run, bound: Bound) -> Float[Tensor, " batch"]:
    """The metric of the model's logits, or where it caps them of the logits before, by the model's own modules."""
    anatomy = model.anatomy
    if anatomy.logit_softcap is None:
        return bound.of_logits(run.logits).detach().cpu()
    x = run["resid_post", -1]
    for module in (anatomy.final_norm, anatomy.unembed_project, anatomy.unembed):
        x = x if module is None else module(x)
    return bound.of_logits(x * anatomy.logit_scale).cpu()
