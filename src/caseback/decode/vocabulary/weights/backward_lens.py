"""The backward lens: gradients of an MLP's weights as words (PRIMER 4.3.12).

    dM/dW_in = sum_i x_i^T d_i        x_i what W_in reads at position i, d_i the gradient at what it gives
    dM/dW_out = sum_i n_i^T g_i       n_i the neurons there, g_i the gradient at n_i W_out (the VJP)

So a gradient of d_model x neurons is as many outer products as the prompt has tokens, and no more in rank. A step
uphill adds multiples of the x_i to the neurons that read (the imprint: inputs like these will be known again) and
multiples of the g_i to what they write (the shift: the output moves this way when they come). Both are directions of
the stream and are read as words, without ever forming the gradient.

M is a metric that is to rise; Katz et al. 2024 descend a loss, so that for M = log p(target) their VJPs are -g_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import Places, expect_sizes
from caseback.decode.vocabulary.weights.named_matrices import Side, table_of, weights_of
from caseback.decode.vocabulary.weights.weight_words import as_words, ends, joined
from caseback.errors import CasebackError, SiteAbsent, TokensError, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.edits import Apply, Edit
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

_OUTPUT = {"in": "mlp_pre", "gate": "mlp_gate", "out": "mlp_out"}


@checked
def weight_gradient(
    model: Model, tokens: PromptsLike, metric: Metric, matrix: str, layer: int, *, edits: Edit | Sequence[Edit] = ()
) -> Factored:
    """The metric's gradient at an MLP's weight, for each prompt, as factors through its tokens (PRIMER 4.3.12).

    Parameters
    ----------
    model
        The model. Its parameters stay frozen.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is what is differentiated.
    matrix
        ``"in"``, ``"gate"`` or ``"out"``.
    layer
        Whose.
    edits
        Interventions under which the model runs.

    Returns
    -------
    ``Factored`` (batch, n, m) with ``left`` (batch, n, pos) and ``right`` (batch, pos, m), 0 at padding; its
    ``.rank()`` is at most the prompt's length.

    Raises
    ------
    CasebackError
        For another matrix.
    SiteAbsent
        For a layer whose MLP is a mixture of experts, or that has no gate.
    UnknownSite
        For a layer that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> gradient = weight_gradient(model, "the cat and the", cb.log_prob(" dog"), "out", 1)
    >>> gradient.shape[-1] == model.d_model, int(gradient.rank()[0]) <= model.tokens("the cat and the").lengths[0]
    (True, tensor(True))
    """
    if matrix not in _OUTPUT:
        raise CasebackError(f"matrix {matrix!r} has no backward lens. {did_you_mean(str(matrix), list(_OUTPUT))}")
    layer = _dense(model, layer)
    read, write = "mlp_post" if matrix == "out" else _input(model, layer), _OUTPUT[matrix]
    run, grads = _run(model, tokens, metric, [(write, layer)], [(read, layer)], edits)
    inside = run.tokens.mask[..., None]
    left = _at_tokens(run[read, layer], inside)
    right = grads[write, layer]
    right = _before_post_norm(model, layer, run["mlp_post", layer], right) if matrix == "out" else right
    return Factored(left.mT, _at_tokens(right, inside))


@technique(
    role="weights in words",
    entry=("4.3.12",),
    citation="Katz et al. 2024",
    cost="forward + backward + tokens x unembedding",
)
def backward_lens(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    layers: Sequence[int] | None = None,
    pos: int | None = None,
    k: int = 5,
    imprint_side: Side = "out",
    folded: bool = True,
    edits: Edit | Sequence[Edit] = (),
    max_logits: int | None = None,
) -> xr.Dataset:
    """Read an MLP's gradients as words: what a step would imprint in W_in and which way it would shift W_out.

    Parameters
    ----------
    model
        The model. Its parameters stay frozen, and no gradient of a weight is formed.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is what a step would raise.
    layers
        Layers with a dense MLP; all of them by default.
    pos
        One position of each prompt; all by default.
    k
        How many tokens are kept.
    imprint_side
        Whether the imprint is read through W_U (``"out"``, as the paper does) or W_E (``"in"``).
    folded
        Fold the final norm's gain in; False for the bare W_U or W_E.
    edits
        Interventions under which the model runs.
    max_logits
        The most products formed at once.

    Returns
    -------
    xr.Dataset
        ``imprint_top_id``, ``imprint_top_text``, ``imprint_top_value``, the same with ``bottom``, and the same of
        ``shift`` (layer, batch, pos, k): the tokens of x_i and of g_i, those that a step raises first. ``imprint_norm``
        and ``shift_norm`` (layer, batch, pos) are |x_i| |d_i| and |n_i| |g_i|, the norm of a token's share in the
        gradient: where it is 0 the metric does not depend on that position and its words mean nothing. ``rank_in``
        and ``rank_out`` (layer, batch) are the gradients' ranks, at most the prompt's ``length`` (batch).

    Raises
    ------
    SiteAbsent
        For a layer whose MLP is a mixture of experts, or a model that has no other.
    UnknownSite
        For a layer that is not there.
    TokensError
        For a position that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "When Mary and John went to the store, John gave a drink to"
    >>> lens = backward_lens(model, prompt, cb.log_prob(" Mary"), pos=-1, k=3)
    >>> lens["shift_top_text"].isel(batch=0, layer=-1, k=0).item()
    ' Mary'
    """
    max_logits = limit("weight_products", given=max_logits)
    expect_sizes(k, max_logits)
    chosen = _layers(model, layers)
    reads = [(site, layer) for layer in chosen for site in (_input(model, layer), "mlp_post")]
    writes = [(site, layer) for layer in chosen for site in ("mlp_pre", "mlp_out")]
    run, grads = _run(model, tokens, metric, writes, reads, edits)
    at, inside = Places(run.tokens, pos), run.tokens.mask[..., None]
    weights = weights_of(model, folded)
    tables = {"imprint": table_of(weights, imprint_side), "shift": table_of(weights, "out")}
    words: dict[str, list[Any]] = {}
    numbers: dict[str, list[Tensor]] = {"imprint_norm": [], "shift_norm": [], "rank_in": [], "rank_out": []}
    for layer in chosen:
        x, n = (_at_tokens(run[site, layer], inside) for site in (_input(model, layer), "mlp_post"))
        d = _at_tokens(grads["mlp_pre", layer], inside)
        g = _at_tokens(_before_post_norm(model, layer, run["mlp_post", layer], grads["mlp_out", layer]), inside)
        for name, vectors in (("imprint", x), ("shift", g)):
            for end, value in ends(vectors[at.example, at.column], tables[name], k, max_logits).items():
                words.setdefault(f"{name}_{end}", []).append(torch.from_numpy(value))
        for name, left, right in (("imprint_norm", x, d), ("shift_norm", n, g)):
            numbers[name].append((left.norm(dim=-1) * right.norm(dim=-1))[at.example, at.column])
        for name, left, right in (("rank_in", x, d), ("rank_out", n, g)):
            numbers[name].append(Factored(left.mT, right).rank())
    lead = ["layer", "batch"] if at.single else ["layer", "batch", "pos"]
    texts = {"token": (tuple(lead[1:]), at.put(np.array([at.text], dtype=str))[0])}
    coords = {"layer": chosen, **texts, "length": ("batch", run.tokens.lengths)}
    attrs = {"metric": metric.name, "folded": folded, "imprint_side": imprint_side, "pos": pos}
    arrays = {name: at.put(torch.stack(rows).numpy()) for name, rows in words.items()}
    lens = as_words(model, arrays, [*lead, "k"], coords, backward_lens, attrs)
    for dims, names in ((lead, ("imprint_norm", "shift_norm")), (["layer", "batch"], ("rank_in", "rank_out"))):
        values = {name: torch.stack(numbers[name]).detach().cpu().numpy() for name in names}
        values = {name: at.put(value) if dims is lead else value for name, value in values.items()}
        own_coords = {key: value for key, value in coords.items() if key != "token" or dims is lead}
        lens = joined(lens, as_words(model, values, dims, own_coords, backward_lens, attrs))
    return lens


@technique(
    role="component effect",
    entry=("4.3.12",),
    citation="Katz et al. 2024",
    cost="one forward + one pseudo-inverse of W_out",
)
def forward_shift(
    model: Model,
    tokens: PromptsLike,
    target: str | int,
    *,
    layer: int,
    strength: float = 1.0,
    pos: int = -1,
    folded: bool = True,
) -> Apply:
    """Make the edit of one layer that writes a token where a prompt's neurons come again, without a backward pass.

        W_out  <-  W_out + c n^T e / |n|^2,      n the neurons at the prompt's token, e the target's direction

    The shift of a gradient step points to the target, so it can be made by hand. The model is not changed: since
    (z + a r) W_out = z W_out + a e for r = e W_out^+, it is an edit of the neurons, exact wherever the layer has as
    many independent neurons as d_model, that holds in runs, sweeps and generation alike.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. One prompt.
    target
        The token to be written.
    layer
        Whose W_out.
    strength
        The length of what is added at the prompt's own token, as a share of the length of n W_out there.
    pos
        The token of the prompt.
    folded
        Take e from W_U with the final norm's gain, or from the bare one.

    Returns
    -------
    An ``Apply`` at ``mlp_post``.

    Raises
    ------
    TokensError
        For several prompts.
    SiteAbsent
        For a mixture of experts.
    CasebackError
        For a layer that cannot write the direction, having too few neurons, or a token without any active.
    TargetError
        For a target that is not one token.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "When Mary and John went to the store, John gave a drink to"
    >>> shift = forward_shift(model, prompt, " cat", layer=3, strength=20.0)
    >>> metric = cb.log_prob(" cat")
    >>> bool(metric(model.run(prompt, edits=shift)) > metric(model.run(prompt)))
    True
    """
    tokens, layer = model.tokens(tokens), _dense(model, layer)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts are given: expected one, whose neurons are the key of the edit")
    run = model.run(tokens, read=[("mlp_post", layer)])
    key = at_least_float32(run["mlp_post", layer][0, tokens.column(pos)[0]].detach())
    weight = at_least_float32(model.weights.W_out[layer])
    direction = table_of(weights_of(model, folded), "out")[:, model.token_id(target)].to(weight)
    direction = direction / direction.norm()
    through = direction @ torch.linalg.pinv(weight)
    missed = float((through @ weight - direction).norm())
    if not missed < 1e-3 or not bool(key.any()):
        raise CasebackError(
            f"layer {layer} cannot be shifted towards {target!r}: its {len(weight)} neurons miss the direction by "
            f"{missed:.2g} of its length, or none is active at the token. Choose another layer or token"
        )
    size = strength * float((key @ weight).norm()) / float(key.pow(2).sum())

    def shifted(old: Tensor) -> Tensor:
        x = at_least_float32(old)
        return (x + size * (x @ key.to(x))[:, None] * through.to(x)).to(old)

    return Apply(site="mlp_post", layer=layer, function=shifted)


def _run(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    at: list[tuple[str, int]],
    read: list[tuple[str, int]],
    edits: Edit | Sequence[Edit],
) -> tuple[Run, Run]:
    """A run that read what was asked for, and the metric's gradients at some sites."""
    posts = [("mlp_post", layer) for _, layer in at]
    given = [edits] if not isinstance(edits, Sequence) else edits
    wanted = list(dict.fromkeys([*at, *read, *posts]))
    run, values = measured(model.anatomy, model.tokens(tokens), metric, read=wanted, edits=given, grad=True)
    return run, run.grad(values, at, retain=False)


def _before_post_norm(
    model: Model, layer: int, neurons: Float[Tensor, "batch pos neuron"], grad: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The gradient at n W_out + b_out from that at what reaches the stream, through the norm behind the MLP."""
    branch = mlp_branch(model.anatomy, layer, neurons.detach())
    grad = at_least_float32(grad) * branch.factor
    if branch.norm is None:
        return grad
    with torch.enable_grad():
        y = at_least_float32(neurons.detach()) @ branch.weight
        y = (y if branch.bias is None else y + branch.bias).requires_grad_()
        return torch.autograd.grad(branch.norm(y), y, grad)[0]


def _input(model: Model, layer: int) -> str:
    """The site that W_in multiplies: behind the norm, or the stream where there is none before the MLP."""
    return "mlp_norm" if model.anatomy.has(Site("mlp_norm", layer)) else "mlp_in"


def _at_tokens(x: Tensor, inside: Tensor) -> Tensor:
    """Detached, in float32 at least, 0 at padding."""
    return at_least_float32(x.detach()).masked_fill(~inside.to(x.device), 0.0)


def _dense(model: Model, layer: int) -> int:
    layer = model.anatomy.layer(layer)
    p = model.anatomy.layers[layer]
    if p.experts is not None or p.w_out is None:
        raise SiteAbsent(
            f"the MLP of layer {layer} of this model ({model.anatomy.model_type}) is a mixture of experts, whose "
            "neurons are not a site: choose layers with a dense MLP"
        )
    return layer


def _layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    if layers is not None:
        return [_dense(model, layer) for layer in layers]
    dense = [i for i, p in enumerate(model.anatomy.layers) if p.experts is None and p.w_out is not None]
    return dense or [_dense(model, 0)]
