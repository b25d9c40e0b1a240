"""MLPs in the map: integrated gradients share out what an activation makes of a sum (PRIMER 3.1.21).

    y_i = sum_j T_i(x_j) + c_i             z_i = N(y_i) W_in + b_in = sum_j z_ij + bias
    neuron            act(z) = sum_j z_ij act(z) / z                                 (baseline 0, act(0) = 0)
    gated neuron      act(u) v = sum_j v_ij A(u) + u_ij (v / u) (act(u) - A(u)),     A(u) = int_0^1 act(a u) da
    C[i, j] = || T_i(x_j) + MLP_i(x_j) ||

The path runs straight from 0 to all pre-activations at once, so what the sources and the biases are given sums to the
neuron exactly: for a gated one too, whatever the quadrature of A, since what one factor is given less the other is
given more. Without a gate this is DecompX's slope; with one, DecompX gives all to v and this shares with u. Norms are
held. In a parallel block the MLP reads the position itself, so its write is that position's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange, SiteAbsent
from caseback.localize.inputs.gradients.quadrature import gauss_legendre
from caseback.localize.inputs.mixing.globenc import reader_of
from caseback.localize.inputs.mixing.mixing import (
    Across,
    by_own_positions,
    chosen_layers,
    labelled_maps,
    row_scores,
    row_shares,
)
from caseback.localize.inputs.mixing.source_blocks import SITES, Rows, measured_blocks, through
from caseback.model.algebra.under_edits import BEHIND, QUERIES, STARTS, expect_followed
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens

Slotted = Float[Tensor, "batch query slot d_model"]
_FOLLOWED = STARTS | QUERIES | BEHIND | {"resid_pre", "v_in", "v"}


def reads_of(model: Model, layers: Sequence[int]) -> list[tuple[str, int]]:
    """What a run must have read for ``layer_parts``.

    Raises
    ------
    SiteAbsent
        For layers whose MLP is a mixture of experts, or whose activation is not known by name.
    EditError
        For a model under edits between values and the stream behind a layer that are not factors of heads.
    """
    anatomy = model.anatomy
    expect_followed(anatomy, "a map through MLPs", _FOLLOWED, ("z",))
    mixed = [i for i in layers if anatomy.layers[i].w_out is None]
    if mixed:
        raise SiteAbsent(
            f"the MLPs of layers {mixed} of this model ({anatomy.model_type}) are mixtures of experts, whose "
            "activations are not read: globenc_maps and alti_maps leave MLPs out"
        )
    names = [*SITES, "mlp_in", "mlp_pre", "mlp_post", "resid_post"]
    return [(name, i) for i in layers for name in [*names, *(["mlp_gate"] if _gated(model, i) else [])]]


def _gated(model: Model, layer: int) -> bool:
    parts = model.anatomy.layers[layer]
    return parts.w_gate is not None or parts.gate_up is not None


def layer_parts(model: Model, run: Run, layer: int, rows: Rows, steps: int) -> Slotted:
    """What some queries hold behind a layer from each position, its last slot what no position sent."""
    anatomy, parts = model.anatomy, model.anatomy.layers[layer]
    constant = torch.zeros_like(rows.whole) if rows.constant is None else rows.constant
    stream = torch.cat([rows.parts, constant[:, :, None]], 2)
    neurons = at_least_float32(run["mlp_post", layer])[:, rows.queries]
    branch = mlp_branch(anatomy, layer, neurons)
    if parts.parallel:
        own = at_least_float32(run["mlp_in", layer])[:, rows.queries]
        read = torch.stack([own, torch.zeros_like(own)], 2)
    else:
        own, read = rows.whole, stream
    read = through(parts.mlp_norm, model, read, own)
    norm = None if parts.mlp_norm is None else anatomy.norms[parts.mlp_norm]
    if norm is not None and norm.beta is not None:
        read[:, :, -1] += norm.beta
    written = branch.push(_shared_out(model, run, layer, rows, read, neurons, steps) @ branch.weight)
    fixed = branch.constant(rows.whole)
    if fixed is not None:
        written[:, :, -1] += fixed
    if not parts.parallel:
        return stream + written
    here = torch.arange(rows.queries.start, rows.queries.stop, device=stream.device)
    stream[:, here - rows.queries.start, here] += written[:, :, 0]
    stream[:, :, -1] += written[:, :, 1]
    return stream


def _shared_out(
    model: Model, run: Run, layer: int, rows: Rows, read: Slotted, neurons: Tensor, steps: int
) -> Float[Tensor, "batch query slot neuron"]:
    """Each neuron's activation, shared out among the slots that its pre-activations are sums of."""
    weights = model.weights

    def projected(name: str, bias: str) -> Tensor:
        pre_activations = read @ at_least_float32(getattr(weights, name)[layer].detach())
        pre_activations[:, :, -1] += at_least_float32(getattr(weights, bias)[layer].detach())
        return pre_activations

    pre = at_least_float32(run["mlp_pre", layer])[:, rows.queries]
    if not _gated(model, layer):
        return projected("W_in", "b_in") * _ratio(neurons, pre)[:, :, None]
    gate = at_least_float32(run["mlp_gate", layer])[:, rows.queries]
    mean = mean_activation(model, layer, gate, steps)
    of_gate = _ratio(neurons - pre * mean, gate)
    return projected("W_in", "b_in") * mean[:, :, None] + projected("W_gate", "b_gate") * of_gate[:, :, None]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Take the quotient, 0 where there is nothing to divide by: there the sum is 0 too."""
    return torch.where(denominator == 0, 0.0, numerator / torch.where(denominator == 0, 1.0, denominator))


def mean_activation(
    model: Model, layer: int, gate: Float[Tensor, "*rows neuron"], steps: int
) -> Float[Tensor, "*rows neuron"]:
    """A(u), the mean of a gate's activation on the way from 0 to its pre-activation."""
    act: Any = model.anatomy.layers[layer].act
    if act is None:
        raise SiteAbsent(f"the activation of layer {layer} of this model ({model.anatomy.model_type}) is not known")
    total = torch.zeros_like(gate)
    for at, weight in zip(*gauss_legendre(steps), strict=True):
        total += float(weight) * at_least_float32(act(float(at) * gate.to(model.dtype)))
    return total


@technique(
    role="context mixing",
    entry=("3.1.21",),
    citation="Kobayashi et al. 2024",
    cost="one forward + layers x positions^2 x neurons",
)
def mlp_maps(
    model: Model,
    tokens: PromptsLike,
    *,
    norm: bool = False,
    steps: int = 20,
    normalise: bool = True,
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """Norms of what each position has from each other behind a whole layer, the MLP's write included.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    norm
        Measure behind the frozen norm that reads the layer's output, as GlobEnc does.
    steps
        Nodes of the Gauss-Legendre quadrature for gates; other MLPs need none.
    normalise
        Divide each row by its sum; the biases' slot is left out.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key). The attribute ``gap`` is by how much the vectors and the biases' miss the layer's
        output, at most.

    Raises
    ------
    SiteAbsent
        For mixtures of experts, and for a model whose heads do not write z W_O.
    OutOfRange, UnknownSite
        For fewer than 1 step, or a layer that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = mlp_maps(model, "the cat and the dog")
    >>> bool(abs(maps.sum("key") - 1).max() < 1e-5), maps.attrs["gap"] < 1e-3
    (True, True)
    """
    if steps < 1:
        raise OutOfRange(f"steps is {steps}: expected at least 1")
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    run = execute(model.anatomy, tokens, read=reads_of(model, chosen), logits=False)
    maps, gaps = [], []
    for layer in chosen:
        norms, gap = _measured(model, run, tokens, layer, norm, steps)
        maps.append(by_own_positions(norms, tokens))
        gaps.append(gap)
    stacked, empty = torch.stack(maps, 1), None
    if normalise:
        stacked, empty = row_shares(stacked, tokens)
    return labelled_maps(
        stacked,
        model,
        tokens,
        chosen,
        technique=mlp_maps,
        name="mlp_mixing",
        norm=norm,
        steps=steps,
        holds_residual=True,
        normalised=normalise,
        empty_rows=empty,
        gap=max(gaps),
    )


def _measured(
    model: Model, run: Run, tokens: Tokens, layer: int, norm: bool, steps: int
) -> tuple[Float[Tensor, "batch query key"], float]:
    """Norms of one layer, and by how much its vectors miss its output."""
    after, real, gaps = at_least_float32(run["resid_post", layer]), tokens.mask, [0.0]

    def norms(rows: Rows) -> Tensor:
        parts = layer_parts(model, run, layer, rows, steps)
        output = after[:, rows.queries]
        off = (parts.sum(2) - output).abs()[real[:, rows.queries].to(parts.device)]
        gaps.append(float(off.max()) if len(off) else 0.0)
        parts = through(reader_of(model, layer), model, parts, output) if norm else parts
        return parts[:, :, :-1].norm(dim=-1)

    wide = max(model.d_model, run["mlp_post", layer].shape[-1])
    return measured_blocks(model, run, layer, norms, width=wide), max(gaps)


@technique(
    role="input attribution",
    entry=("3.1.21",),
    citation="Kobayashi et al. 2024",
    cost="one forward + layers x positions^2 x neurons",
)
def mlp_mixing(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    across: Across = "rollout",
    norm: bool = False,
    steps: int = 20,
) -> xr.DataArray:
    """What the position that the metric reads holds of each token by maps with the MLPs in them.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: norms know no
        target.
    across
        ``"rollout"`` without identity, ``"mean"`` over the layers, or one by number.
    norm, steps
        As for ``mlp_maps``.

    Returns
    -------
    xr.DataArray
        (batch, pos), shares that sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions.
    SiteAbsent
        As for ``mlp_maps``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> round(float(mlp_mixing(model, "the cat and the dog", cb.logit(" cat")).sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    maps = mlp_maps(model, tokens, norm=norm, steps=steps)
    return row_scores(maps, model, tokens, metric, across, technique=mlp_mixing, name="mlp_mixing")
