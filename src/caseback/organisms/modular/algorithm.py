"""By which algorithm a model adds, and how few of its neurons do it (PRIMER 5.4.17).

    symmetry      mean over (a, b, c) of  cos(dQ_abc / dE_a, dQ_abc / dE_b)        Q_abc: the logit of c after a b =
    irrelevance   mean over d of std(Q_ab,a+b | a - b = d)  /  std(Q_ab,a+b)
    formula       R^2 of the logits by  sum over key k of alpha_k cos(w_k (a + b - c)),     w_k = 2 pi k / p
    single        share of neurons of which one frequency's eight waves hold > .85 of the variance over (a, b)
    efficiency    mean over trained pairs of (right logit - largest other)  /  |weights|
    active        fewest neurons, largest norms first, that alone give .99 of the model's own answers

A clock multiplies the waves of a and b: gradients differ, and a - b does not matter. A pizza reads their sum: gradients
are alike, and the right logit depends on a - b (Zhong et al. 2023, whose pizza has .99 and .17, whose clock .33 and
.85). The formula and the neurons of one frequency are Nanda et al. 2023's; what has grokked does with few neurons what
was known by heart with many (Merrill et al. 2023), and has larger margins for its weights (Varma et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.organisms.modular.addition import all_pairs, answers
from caseback.organisms.modular.fourier import centered_waves, key_frequencies

HELD, AGREEING = 0.85, 0.99


def gradient_symmetry(hf: Any, ids: Int[Tensor, "pair pos"], asked: Int[Tensor, " pair"]) -> float:
    """How alike the gradients of logits are at the two operands' embeddings, which stand before the last token.

    Parameters
    ----------
    hf
        The model.
    ids
        Prompts that end with the operands and ``=``.
    asked
        Of each prompt the token whose logit is taken.
    """
    embedded = hf.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.enable_grad():
        logits = hf(inputs_embeds=embedded).logits[:, -1]
        (slope,) = torch.autograd.grad(logits.gather(1, asked[:, None]).sum(), embedded)
    return float(torch.cosine_similarity(slope[:, -3].double(), slope[:, -2].double(), dim=-1).mean())


def distance_irrelevance(right: Float[Tensor, " pair"], p: int) -> float:
    """How much of the right logit's spread is left where the operands are equally far apart; 1 where it has none.

    Parameters
    ----------
    right
        The right answer's logit of every pair (a, b), row a · p + b.
    p
        The modulus.

    Examples
    --------
    >>> a, b = torch.arange(5).repeat_interleave(5), torch.arange(5).repeat(5)
    >>> distance_irrelevance((a - b) % 5 * 1.0, 5), round(distance_irrelevance((a + b) % 5 * 1.0, 5), 2)
    (0.0, 1.0)
    """
    table = right.double().view(p, p)
    a = torch.arange(p, device=right.device)
    by_distance = table[a, (a - a[:, None]) % p]  # (d, a): b = a - d
    whole = table.std(correction=0)
    if whole < 1e-6 * table.abs().mean():
        return 1.0
    return float(by_distance.std(1, correction=0).mean() / whole)


def efficiency(logits: Float[Tensor, "pair vocab"], right: Int[Tensor, " pair"], model: torch.nn.Module) -> float:
    """The mean margin of the right answer over the norm of all weights."""
    own = logits.double().gather(1, right[:, None])
    others = logits.double().scatter(1, right[:, None], -torch.inf).amax(1, keepdim=True)
    norm = sum(float(weight.double().square().sum()) for weight in model.parameters()) ** 0.5
    return float((own - others).mean()) / norm


def formula_share(logits: Float[Tensor, "pair p"], p: int) -> float:
    """The share of the logits' variance that cosines of a + b - c at their own key frequencies explain.

    Parameters
    ----------
    logits
        Of every pair the logits of the numbers 0 to p - 1, in order.
    p
        The modulus.
    """
    x = logits.double() - logits.double().mean(1, keepdim=True)
    keys = torch.tensor(key_frequencies(logits, p), dtype=torch.float64)
    a = torch.arange(p)
    turned = (a[:, None, None] + a[:, None] - a).flatten(0, 1)  # (pair, c)
    waves = (2 * torch.pi / p * keys[:, None, None] * turned).cos()
    # over all pairs and answers different frequencies are orthogonal, and each has the square norm p^3 / 2
    along = torch.einsum("kpc,pc->k", waves, x)
    return float(along.square().sum() / (p**3 / 2) / x.square().sum())


def single_frequency(neurons: Float[Tensor, "pair neuron"], p: int) -> Float[Tensor, " neuron"]:
    """Of each neuron the share of its variance over pairs that the best frequency's waves hold.

    Parameters
    ----------
    neurons
        Activations at ``=`` of every pair.
    p
        The modulus.
    """
    x = neurons.double() - neurons.double().mean(0)
    held = torch.einsum("kip,pn->kin", centered_waves(p), x).square().sum(1)
    whole = x.square().sum(0)
    return (held.amax(0) / whole.clamp_min(torch.finfo(torch.float64).tiny)).clamp(max=1)


def active_neurons(
    rest: Float[Tensor, "pair vocab"],
    neurons: Float[Tensor, "pair neuron"],
    writes: Float[Tensor, "neuron vocab"],
    order: Int[Tensor, " neuron"],
) -> int:
    """How many neurons, taken in an order, give the answers that all of them give in 99 of 100 pairs.

    Parameters
    ----------
    rest
        The logits without any neuron.
    neurons, writes
        Activations, and what each writes to the logits.
    order
        Which are taken first.
    """
    answers = (rest + neurons @ writes).argmax(-1)
    partial, rows = rest.clone(), max(1, limit("neuron_numbers", rest.device) // rest.numel())
    agree = [(partial.argmax(-1) == answers).double().mean()[None]]
    for some in order.split(rows):
        grown = partial + torch.einsum("pn,nv->npv", neurons[:, some], writes[some]).cumsum(0)
        agree.append((grown.argmax(-1) == answers).double().mean(1))
        partial = grown[-1]
    # from here on: a few neurons may agree by luck where the next ones undo it
    short = torch.cat(agree) < AGREEING
    return int(short.nonzero().max()) + 1 if bool(short.any()) else 0


@torch.no_grad()
def addition_algorithm(model: Any, p: int, *, seed: int = 0) -> dict[str, float]:
    """All of these of one model of modular addition.

    Parameters
    ----------
    model
        A model of one layer, as ``new_model`` makes it, with the numbers as their own tokens.
    p
        The modulus.
    seed
        Draws the answers whose gradients are compared, one for each pair, and the random order of neurons.

    Returns
    -------
    dict
        ``gradient_symmetry``, ``distance_irrelevance``, ``formula_share``, ``single_neurons``, ``active_neurons`` and
        ``active_at_random``, the same with neurons in a random order.

    Examples
    --------
    >>> from caseback.organisms.modular.addition import new_model
    >>> read = addition_algorithm(new_model(7, seed=0), 7)
    >>> read["active_neurons"] <= 512, 0 <= read["distance_irrelevance"] <= 1.2
    (True, True)
    """
    ids, right = all_pairs(p), answers(p)
    draw = torch.Generator().manual_seed(seed)
    layer = model.model.layers[0]
    held: dict[str, Tensor] = {}
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: held.update(post=args[0][:, -1]))
    try:
        logits = model(ids).logits[:, -1]
    finally:
        hook.remove()
    neurons, writes = held["post"], (model.lm_head.weight @ layer.mlp.down_proj.weight).T
    norms = layer.mlp.up_proj.weight.norm(dim=1) * layer.mlp.down_proj.weight.norm(dim=0)
    rest = logits - neurons @ writes
    orders = norms.argsort(descending=True), torch.randperm(len(norms), generator=draw)
    active, at_random = (active_neurons(rest, neurons, writes, order) for order in orders)
    return {
        "gradient_symmetry": gradient_symmetry(model, ids, torch.randint(p, (len(ids),), generator=draw)),
        "distance_irrelevance": distance_irrelevance(logits.gather(1, right[:, None])[:, 0], p),
        "formula_share": formula_share(logits[:, :p], p),
        "single_neurons": float((single_frequency(neurons, p) > HELD).double().mean()),
        "active_neurons": active,
        "active_at_random": at_random,
    }
