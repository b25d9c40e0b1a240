"""ALTI-Logit: each layer's direct share in a prediction, brought back to the tokens (PRIMER 3.1.20).

    D_l[j]  = sum_h a_nj v_j W_O u / s          what layer l adds to the metric from its input at j
    score   = x_0[n] u / s  at n  +  sum_l D_l R_{l-1}  +  sum_l (mlp_l[n] u / s) R_l[n]

u is the metric's direction behind the final norm, s that norm's held denominator, n the metric's position. What stands
at j when layer l reads it is a mixture of the tokens, R_{l-1}[j] by ALTI's rollout, so j's share is divided by it. An
MLP reads position n behind its layer's attention, R_l[n], or beside it where they run in parallel, R_{l-1}[n]. Rows of
R sum to 1, so nothing is lost on the way: scores and biases sum to the metric.
"""

from __future__ import annotations

import torch
import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.mixing.alti import alti_of
from caseback.localize.inputs.mixing.mixing import read_positions, rolled
from caseback.localize.inputs.mixing.source_blocks import SITES
from caseback.model.algebra.direct import LAST, direction_of
from caseback.model.algebra.sources import values_of
from caseback.model.algebra.under_edits import attended
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.per_token import aligned, expect_metric, token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike

MLPS = ("mixed", "apart")


@technique(role="input attribution", entry=("3.1.20",), citation="Ferrando et al. 2023", cost="one forward")
def alti_logit(
    model: Model, tokens: PromptsLike, metric: Metric, *, mlps: str = "mixed", p: float = 1.0
) -> xr.DataArray:
    """What each token adds to a logit or a logit difference: direct shares divided by ALTI's rollout.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position: ``cb.logit``, or ``cb.logit_diff`` for the contrastive form of the paper.
    mlps
        ``"mixed"`` divides what MLPs write among the tokens too; ``"apart"`` leaves it out of the scores, in the
        attribute ``mlp_share``.
    p
        Which norm ALTI's distance is.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed; NaN where a shorter prompt has no token. Attributes, one number per prompt:
        ``metric_value`` (before any soft-cap of the logits), ``bias_share``, ``mlp_share`` (all MLPs together), and
        ``gap``, by how much scores, biases and what stands apart miss the metric.

    Raises
    ------
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position.
    SiteAbsent
        For a model whose heads do not write z W_O.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = alti_logit(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> of_tokens = scores.attrs["metric_value"][0] - scores.attrs["bias_share"][0]
    >>> abs(float(scores.sum()) - of_tokens) < 1e-3
    True
    """
    if mlps not in MLPS:
        raise CasebackError(f"mlps={mlps!r} is unknown. {did_you_mean(str(mlps), MLPS)}")
    anatomy, tokens = model.anatomy, model.tokens(tokens)
    direction, at = direction_of(model, tokens, expect_metric(metric)), read_positions(model, tokens, metric)
    ends = ["embed", *(["pos_embed"] if anatomy.pos_embed is not None else [])]
    run = execute(anatomy, tokens, read=[*ends, *SITES, "mlp_out", LAST], logits=False)
    stream = direction.stream(run)
    reading = direction.reading(stream)
    maps, empty = alti_of(model, run, tokens, range(model.n_layers), p, "nothing")
    products, rows = rolled(maps, 0.0), torch.arange(len(maps), device=maps.device)
    at = at.to(maps.device)
    own = sum(reading.of(direction.at(run[name], tokens))[:, 0] for name in ends)
    scores = torch.zeros_like(maps[:, 0, 0])
    scores[rows, at] = own
    of_mlps, bias = torch.zeros_like(scores), direction.constant(reading)
    for layer, p_layer in enumerate(anatomy.layers):
        before = products[:, layer - 1] if layer else torch.eye(maps.shape[-1]).to(maps).expand_as(maps[:, 0])
        # what each value at each source is worth to the metric, through its head's W_O
        branch = attention_branch(anatomy, layer, direction.at(run["z", layer], tokens))
        worth = torch.einsum("bhje,bhek->bhj", values_of(run, layer), reading.through(branch))
        pattern = direction.at(attended(run, layer).transpose(1, 2), tokens)
        shares = (pattern * worth).sum(1)
        # both norms on the way, the final one and one behind the branch, divide by what they did in this run
        for scale in (reading.scale, branch.scale):
            shares = shares if scale is None else shares / scale
        scores = scores + (aligned(shares, tokens)[:, None] @ before)[:, 0]
        constant = branch.constant(stream)
        bias = bias if constant is None else bias + reading.of(constant)[:, 0]
        # the MLP reads position n, so what it writes is divided like the stream that it read there
        mlp = reading.of(direction.at(at_least_float32(run["mlp_out", layer]), tokens))
        of_mlps = of_mlps + mlp * (before if p_layer.parallel else products[:, layer])[rows, at]
    value, mlp_share = direction.measured(stream), of_mlps.sum(-1)
    scores = scores + of_mlps if mlps == "mixed" else scores
    total = scores.sum(-1) + bias + (mlp_share if mlps == "apart" else 0.0)
    return token_scores(
        scores,
        model,
        tokens,
        metric,
        technique=alti_logit,
        name="alti_logit",
        mlps=mlps,
        p=float(p),
        metric_value=value.tolist(),
        bias_share=bias.tolist(),
        mlp_share=mlp_share.tolist(),
        gap=(total - value).tolist(),
        empty_rows=empty,
    )
