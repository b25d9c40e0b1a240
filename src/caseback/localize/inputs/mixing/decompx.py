"""DecompX: the whole network, frozen, as a sum over the tokens it read (PRIMER 3.1.19).

    x_i = sum_s D_l[i, s] + D_l[i, bias]          metric = sum_s D_L[n, s] u / s + bias

With attention patterns, norms' denominators and the activations' slopes (a gated MLP's gate) held at their values the
network is affine in what its embeddings wrote: ``caseback.model.backward.linearised``. The same sum can be had from
both ends.
Forwards, D of one layer after another, (query, source, d_model) of some sources each: maps, and any logits at all.
Backwards, one vector per position, pulled through the transposed layers: the scores of one metric, for the price of
another forward. They are the frozen network's gradient times its input, and with the biases they sum to the metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.budget import limit
from caseback.localize.inputs.mixing.mixing import (
    by_own_positions,
    chosen_layers,
    labelled_maps,
    row_shares,
)
from caseback.model.algebra.direct import Direction, direction_of
from caseback.model.algebra.readout import Directions, Position, picked, readout
from caseback.model.algebra.under_edits import attended
from caseback.model.algebra.writes import Branch, attention_branch, mlp_branch, spread
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.backward.linearised import sites, steps, value_slopes
from caseback.model.prompts.per_token import aligned, expect_metric, token_scores
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens

Pull = Float[Tensor, "batch pos d_model"]
BIAS = ("apart", "shared")


@technique(
    role="input attribution",
    entry=("3.1.19",),
    citation="Modarressi et al. 2023, Oh and Schuler 2023",
    cost="two forwards",
)
def decompx(model: Model, tokens: PromptsLike, metric: Metric, *, bias: str = "apart") -> xr.DataArray:
    """What each token adds to a logit or a logit difference, with every nonlinearity frozen.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position.
    bias
        ``"apart"`` keeps what no token sent in the attribute ``bias_share``; ``"shared"`` divides it among the tokens
        in proportion to the size of their scores, so that the scores alone sum to the metric.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed; position embeddings count to their token; NaN where a shorter prompt has no token.
        Attributes, one number per prompt: ``metric_value`` (before any soft-cap), ``bias_share``, and ``gap``, by how
        much scores and biases miss the metric.

    Raises
    ------
    CasebackError
        For a metric that is not linear in the logits, or reads more than one position.
    SiteAbsent
        For mixtures of experts and latent attention, whose layers are not linear when frozen like this.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = decompx(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> of_tokens = scores.attrs["metric_value"][0] - scores.attrs["bias_share"][0]
    >>> abs(float(scores.sum()) - of_tokens) < 1e-3
    True
    """
    if bias not in BIAS:
        raise CasebackError(f"bias={bias!r} is unknown. {did_you_mean(str(bias), BIAS)}")
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, expect_metric(metric))
    run = execute(model.anatomy, tokens, read=sites(model), logits=False)
    scores, bias_share = _pulled(direction, run)
    value = direction.measured(direction.stream(run))
    gap = scores.sum(-1) + bias_share - value
    if bias == "shared":
        size = scores.abs()
        scores = scores + bias_share[:, None] * size / size.sum(-1, keepdim=True)
    return token_scores(
        aligned(scores, tokens),
        model,
        tokens,
        metric,
        technique=decompx,
        name="decompx",
        bias=bias,
        metric_value=value.tolist(),
        bias_share=bias_share.tolist(),
        gap=gap.tolist(),
    )


def _pulled(direction: Direction, run: Run) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, " batch"]]:
    """Each column's share of the metric and the biases', by pulling its direction back through the frozen layers."""
    model, tokens = direction.model, run.tokens
    reading = direction.reading(direction.stream(run))
    at_end = reading.pulled[:, 0] if reading.scale is None else reading.pulled[:, 0] / reading.scale
    pull = torch.zeros_like(at_least_float32(run["resid_post", -1]))
    pull[torch.arange(len(pull), device=pull.device), tokens.column(direction.pos).to(pull.device)] = at_end
    bias = direction.constant(reading)
    # from the last layer down; in a sequential block the MLP also read what attention wrote
    for layer in reversed(range(model.n_layers)):
        of_mlp, lost = _through_mlp(model, run, layer, pull)
        middle = pull if model.anatomy.layers[layer].parallel else pull + of_mlp
        of_attention, also_lost = _through_attention(model, run, layer, middle)
        pull = middle + of_attention + (of_mlp if model.anatomy.layers[layer].parallel else 0.0)
        bias = bias + lost + also_lost
    start = at_least_float32(run["embed"])
    start = start if model.anatomy.pos_embed is None else start + run["pos_embed"]
    return (pull * start).sum(-1), bias


def _behind(branch: Branch, pull: Pull) -> Pull:
    """Directions in the stream as directions in a branch's output, its norm's denominator included."""
    pulled = branch.pull(pull)
    return pulled if branch.scale is None else pulled / spread(branch.scale, pulled)


def _worth(constant: Tensor | None, pull: Pull) -> Float[Tensor, " batch"]:
    return torch.zeros_like(pull[:, 0, 0]) if constant is None else (constant * pull).sum((1, 2))


def _before(model: Model, module: nn.Module | None, stream: Tensor, pull: Pull) -> tuple[Pull, Float[Tensor, " batch"]]:
    """Directions behind a norm as directions before it, and what its bias is worth to them."""
    if module is None:
        return pull, torch.zeros_like(pull[:, 0, 0])
    norm = model.anatomy.norms[module]
    worth = _worth(None if norm.beta is None else norm.beta.to(pull), pull)
    return norm.pull(pull, norm.scale(stream)), worth


def _through_mlp(model: Model, run: Run, layer: int, pull: Pull) -> tuple[Pull, Float[Tensor, " batch"]]:
    parts, weights = model.anatomy.layers[layer], model.weights
    pre, neurons = (at_least_float32(run[name, layer]) for name in ("mlp_pre", "mlp_post"))
    # held at its value, an activation function is a factor of its input; where that is 0 nothing is passed on
    slope = torch.where(pre == 0, 0.0, neurons / torch.where(pre == 0, 1.0, pre))
    branch = mlp_branch(model.anatomy, layer, neurons)
    of_neurons = _behind(branch, pull) @ branch.weight.T * slope
    bias = _worth(branch.constant(pull), pull) + _worth(at_least_float32(weights.b_in[layer]), of_neurons)
    read = of_neurons @ at_least_float32(weights.W_in[layer]).T
    before, of_norm = _before(model, parts.mlp_norm, run["mlp_in", layer], read)
    return before, bias + of_norm


def _through_attention(model: Model, run: Run, layer: int, pull: Pull) -> tuple[Pull, Float[Tensor, " batch"]]:
    parts, weights = model.anatomy.layers[layer], model.weights
    w_v, b_v = (at_least_float32(x.detach()) for x in (weights.W_V[layer], weights.b_V[layer]))
    branch = attention_branch(model.anatomy, layer, run["z", layer])
    of_z = torch.einsum("bid,hed->bhie", _behind(branch, pull), branch.weight)
    of_v = torch.einsum("bhij,bhie->bjhe", attended(run, layer), of_z)
    # query heads that share a value head each had their own part: their sum goes back to it
    of_v = (of_v * value_slopes(model, run, layer)).unflatten(2, (len(w_v), -1)).sum(3)
    bias = _worth(branch.constant(pull), pull) + (of_v * b_v).sum((1, 2, 3))
    read = torch.einsum("bjhe,hde->bjd", of_v, w_v)
    before, of_norm = _before(model, parts.attn_norm, run["attn_in", layer], read)
    return before, bias + of_norm


def _slots(model: Model, tokens: Tokens) -> list[range]:
    """The sources and the biases' slot, cut so that one layer's block of a part stays small."""
    batch, pos = tokens.shape
    at_once = max(1, limit("decompx_numbers") // (batch * pos * model.d_model))
    return [range(first, min(first + at_once, pos + 1)) for first in range(0, pos + 1, at_once)]


@technique(
    role="context mixing",
    entry=("3.1.19",),
    citation="Modarressi et al. 2023",
    cost="one forward + layers x positions^2 x d_model",
)
def decompx_maps(
    model: Model, tokens: PromptsLike, *, normalise: bool = True, p: float = 2.0, layers: Sequence[int] | None = None
) -> xr.DataArray:
    """How much of each position behind a layer comes from each token of the prompt, all layers before included.

    These maps are not to be rolled out: each already is what a rollout approximates. Sources go through the layers some
    at a time, so that memory is bounded whatever the number of layers and does not grow with the square of the prompt.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    normalise
        Divide each row by its sum; the biases' slot is left out.
    p
        Which norm of the vectors.
    layers
        Behind which layers; all unless given.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key): the norm of what position ``query`` behind ``layer`` has from the token at ``key``.
        The attribute ``gap`` is by how much the vectors and the biases' miss the stream, at most.

    Raises
    ------
    SiteAbsent
        For mixtures of experts and latent attention.
    UnknownSite
        For a layer that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = decompx_maps(model, "the cat and the dog")
    >>> bool(abs(maps.sum("key") - 1).max() < 1e-5), maps.attrs["gap"] < 1e-3
    (True, True)
    """
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    run = execute(model.anatomy, tokens, read=[*sites(model), "resid_post"], logits=False)
    norms: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    off = {layer: -at_least_float32(run["resid_post", layer]) for layer in chosen}
    for slots in _slots(model, tokens):
        for step in steps(model, run, slots):
            if step.layer in norms:
                off[step.layer] = off[step.layer] + step.stream.sum(2)
                norms[step.layer].append(step.stream.norm(p=p, dim=-1))
            del step
    gap = max(float(x[tokens.mask].abs().max()) for x in off.values())
    by_layer = {layer: by_own_positions(torch.cat(parts, -1)[..., :-1], tokens) for layer, parts in norms.items()}
    maps, empty = torch.stack([by_layer[layer] for layer in chosen], 1), None
    if normalise:
        maps, empty = row_shares(maps, tokens)
    return labelled_maps(
        maps,
        model,
        tokens,
        chosen,
        technique=decompx_maps,
        name="decompx",
        p=float(p),
        normalised=normalise,
        empty_rows=empty,
        cumulative=True,
        gap=gap,
    )


@technique(
    role="context mixing",
    entry=("3.1.19",),
    citation="Modarressi et al. 2023",
    cost="one forward + layers x positions^2 x d_model",
)
def decompx_logits(model: Model, tokens: PromptsLike, directions: Directions, *, pos: Position = -1) -> xr.DataArray:
    """Logits as a sum over the prompt's tokens, as many logits as asked for, at one position or all.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    directions
        Tokens as text or ids (one, a list, or a list per prompt), or vectors that read the normed stream. All logits
        are ``range(model.d_vocab)``.
    pos
        The position predicted from, or None for all.

    Returns
    -------
    xr.DataArray
        (batch, [query,] key, vocab), or k for vectors, by each prompt's own positions; the last ``key``, -1, is the
        slot of the biases. It sums over ``key`` to the logits before any soft-cap.

    Raises
    ------
    SiteAbsent
        For mixtures of experts and latent attention.
    TargetError
        For a target that is not one token, or vectors of another width.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "the cat and the dog"
    >>> parts = decompx_logits(model, prompt, range(model.d_vocab))
    >>> logits = model.run(prompt).logits[0, -1]
    >>> float(abs(parts.sum("key").values[0] - logits.numpy()).max()) < 1e-3
    True
    """
    tokens = model.tokens(tokens)
    run = execute(model.anatomy, tokens, read=sites(model), logits=False)
    reading = readout(model, directions, picked(run["resid_post", -1], tokens, pos))
    read: list[Tensor] = []
    for slots in _slots(model, tokens):
        for step in steps(model, run, slots):
            if step.layer == model.n_layers - 1:
                read.append(reading.of(picked(step.stream, tokens, pos)))
            del step
    values = torch.cat(read, -2)
    sources, slot = values[..., :-1, :], values[..., -1:, :] + reading.rows(values[..., -1, :])[..., None, :]
    width = sources.shape[-2]
    if pos is None:
        sources, slot = by_own_positions(sources, tokens), aligned(slot, tokens)
    else:
        sources = aligned(sources, tokens)
    outside = torch.arange(width, device=sources.device) >= tokens.lengths.to(sources.device)[:, None]
    sources = sources.masked_fill(outside[:, :, None] if pos is not None else outside[:, None, :, None], torch.nan)
    values = torch.cat([sources, slot], -2)
    texts = [row + [""] * (width - len(row)) for row in tokens.text]
    coords = {"key": [*range(width), -1], "key_token": (("batch", "key"), [[*row, "bias"] for row in texts])}
    dims = ["batch", "key", reading.dim]
    if pos is None:
        values = values.masked_fill(outside[:, :, None, None], torch.nan)
        dims, coords = ["batch", "query", "key", reading.dim], coords | {"query_token": (("batch", "query"), texts)}
    attrs = {"name": "share", "technique": decompx_logits, "model": model, "pos": pos}
    return labelled(values, dims, coords | reading.coords, **attrs)
