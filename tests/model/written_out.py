"""A decoder written out from weights, patterns given: what the weights must make of the embeddings.

It shares no code with the decompositions that it checks. Frozen, it is the affine map of PRIMER 2.9:
denominators and activation slopes are those of a run, whatever stream it is given.
"""

import torch
from torch import Tensor

from caseback.model.algebra.folding import Folded
from caseback.model.running.model import Model
from caseback.model.running.run import Run

READ = ["embed", "pattern", "attn_in", "mlp_in", "attn_out", "mlp_out", "z", "resid_post"]
FROZEN = [*READ, "mlp_pre", "mlp_post", "v"]


def embedded(run: Run, weights: Folded) -> Tensor:
    """What the embeddings write, (batch, pos, d_model)."""
    x = weights.W_E[run.tokens.ids]
    return x if run.anatomy.pos_embed is None else x + weights.W_pos[run.tokens.position_ids]


def final_stream(model: Model, run: Run, weights: Folded, x: Tensor, frozen: bool = False) -> Tensor:
    """The last residual stream that folded weights make of the embeddings ``x``.

    Mixtures and latent attention, which weights do not tell in full, write what they wrote in the run.
    """
    for layer, p in enumerate(model.anatomy.layers):
        attn = _attention(model, run, weights, layer, x, frozen)
        mlp = _mlp(model, run, weights, layer, x if p.parallel else x + attn, frozen)
        x = x + attn + mlp
    return x


def logits(weights: Folded, x: Tensor) -> Tensor:
    """Before any soft-cap."""
    return weights.final_norm(x) @ weights.W_U + weights.b_U


def _read(norm, x: Tensor, told: Tensor, frozen: bool) -> Tensor:
    if norm is None:
        return x
    return norm.frozen(x, norm.scale(told)) if frozen else norm(x)


def _attention(model, run, weights, layer, x, frozen):
    p = model.anatomy.layers[layer]
    if p.v is None:
        return weights._centre(run["attn_out", layer])
    read = _read(weights.attn_norm[layer], x, run["attn_in", layer], frozen)
    v = torch.einsum("bjd,hde->bhje", read, weights.W_V.per_head[layer])
    v = v + weights.b_V.per_head[layer][:, None]
    z = torch.einsum("bhij,bhje->bihe", run["pattern", layer], v)
    out = torch.einsum("bihe,hed->bid", z, weights.W_O[layer]) + weights.b_O[layer]
    if p.attn_post_norm is None:
        return out
    plain = weights.plain
    # Folded values may lack b_V, the output that the norm sees does not.
    told = run["z", layer] if frozen or weights.value_bias else z
    o = torch.einsum("bihe,hed->bid", told, plain.W_O[layer]) + plain.b_O[layer]
    return out / plain.attn_post_norm[layer].scale(o)


def _mlp(model, run, weights, layer, x, frozen):
    p, plain = model.anatomy.layers[layer], weights.plain
    if p.w_out is None:
        return weights._centre(run["mlp_out", layer])
    read = _read(weights.mlp_norm[layer], x, run["mlp_in", layer], frozen)
    pre = read @ weights.W_in[layer] + weights.b_in[layer]
    if frozen:
        neurons = pre * run["mlp_post", layer] / run["mlp_pre", layer]
    elif p.w_gate is None and p.gate_up is None:
        neurons = p.act(pre)
    else:
        neurons = p.act(read @ weights.W_gate[layer] + weights.b_gate[layer]) * pre
    out = neurons @ weights.W_out[layer] + weights.b_out[layer]
    if p.mlp_post_norm is None:
        return out
    told = run["mlp_post", layer] if frozen else neurons
    return out / plain.mlp_post_norm[layer].scale(told @ plain.W_out[layer] + plain.b_out[layer])
