"""The QK fix: the softmax is recomputed, not differentiated, where a query or a key is patched (PRIMER 3.2.16).

    estimate = sum_{i,k} (A'_ik - A_ik) . d metric / d A_ik,     d metric / d A_ik = v_k . d metric / d z_i

A query moves its own row of the pattern A: A' v - A v is a change of z, and one product with the gradient at z is the
sum. A key moves one column of the scores, in all rows that see it: with a = A_ij and a' the weights of the key itself
before and after, the other keys share 1 - a' as they shared 1 - a, so

    row i gives  (a' - a) (G_ij - M_ij),     M_ij = sum_{k != j} A_ik G_ik / (1 - a),     G = d metric / d A.

All keys of a layer are done in one (head, query, key) map. M and 1 - a are sums without the key, not differences from
the whole, so that they stay right where the key has nearly all the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.jobs.budget import limit
from caseback.localize.components.machinery.first_order import Part
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import Heads, Scores, attending, mix, native, pattern_of, repeat_heads, scores_of
from caseback.model.running.passing import no_rows, undisturbed
from caseback.model.running.run import Run, inputs_of
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found


@dataclass(frozen=True)
class AttentionCall:
    """How a layer's attention was called, besides with queries, keys and values."""

    module: nn.Module
    mask: Tensor | None
    how: dict[str, Any]

    def scores(self, q: Heads, k: Heads, rows: slice) -> Scores:
        """Scores as this layer's softmax takes them, for some prompts: scaled, capped, biased, masked."""
        how: dict[str, Any] = {**self.how, "position_bias": _of_rows(self.how.get("position_bias"), rows)}
        return scores_of(q[rows], k[rows], _of_rows(self.mask, rows), **how)


def _of_rows(x: Tensor | None, rows: slice) -> Tensor | None:
    return x if x is None or x.shape[0] == 1 else x[rows]


@as_found
def attention_calls(anatomy: Anatomy, tokens: Tokens) -> list[AttentionCall]:
    """How every layer's attention is called on these prompts; one forward pass without logits."""
    calls: dict[int, AttentionCall] = {}

    def attend(layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **how: Any):
        calls[layer] = AttentionCall(module, mask, how)
        own = native(module)
        if own is not None:
            return own(module, q, k, v, mask, **how)[0]
        return mix(pattern_of(scores_of(q, k, mask, **how), module, **how), v)

    with undisturbed(anatomy, grad=False), no_rows(anatomy.unembed), attending(anatomy, attend):
        logits_of(anatomy.hf, inputs_of(tokens, anatomy.hf))
    return [calls[layer] for layer in range(anatomy.n_layers)]


def sites_of(layer: int) -> list[Site]:
    """What both runs must have read of a layer."""
    return [Site(name, layer) for name in ("q", "k", "v")]


def queries(layer: int, call: AttentionCall, base: Run, source: Run) -> Part:
    """Patched queries: the change of z that a query's new row of the pattern makes, times the gradient at z."""
    q, k, v = (_heads(base, site) for site in sites_of(layer))
    theirs = _heads(source, Site("q", layer))
    change = torch.cat([_moved(call, theirs, q, k, v, rows) for rows in _chunks(q, k)])
    z = Site("z", layer)
    return Part(Site("q", layer), (z,), lambda g: (change * at_least_float32(g[z.key])).sum(-1))


def _moved(call: AttentionCall, theirs: Heads, q: Heads, k: Heads, v: Heads, rows: slice) -> Tensor:
    """What patching every query by itself adds to z, (batch, pos, head, d)."""
    old, new = (pattern_of(call.scores(x, k, rows), call.module, **call.how) for x in (q, theirs))
    return mix(new - old, v[rows])


def keys(layer: int, call: AttentionCall, base: Run, source: Run) -> Part:
    """Patched keys, each by itself in all rows that see it; a shared key's effect is that in all its query heads."""
    q, k, v = (_heads(base, site) for site in sites_of(layer))
    theirs = _heads(source, Site("k", layer))
    z = Site("z", layer)

    def estimate(gradients: Run) -> Tensor:
        g = at_least_float32(gradients[z.key]).transpose(1, 2)
        return torch.cat([_columns(call, theirs, q, k, v, g, rows) for rows in _chunks(q, k)])

    return Part(Site("k", layer), (z,), estimate)


def _columns(call: AttentionCall, theirs: Heads, q: Heads, k: Heads, v: Heads, g: Heads, rows: slice) -> Tensor:
    """The estimates of all keys of some prompts, (batch, pos, kv_head)."""
    # weights span hundreds of orders of magnitude
    scores, patched = (widened(call.scores(q, x, rows)) for x in (k, theirs))
    slope = widened(g[rows] @ repeat_heads(v[rows], g.shape[1]).mT)
    highest = scores.amax(-1, keepdim=True)
    weight = (scores - highest).exp()
    others, shared = _without_each(weight), _without_each(weight * slope)
    sinks = call.how.get("s_aux")
    sinks = sinks if sinks is not None else getattr(call.module, "sinks", None)
    if sinks is not None:
        others = others + (widened(sinks.detach()).view(1, -1, 1, 1) - highest).exp()
    mean = torch.where(others > 0, shared / others.clamp_min(torch.finfo(others.dtype).tiny), 0.0)
    # a patched score may lie far above all others: both weights are taken from the higher of the two
    top = torch.maximum(patched, highest)
    mine = (patched - top).exp()
    new = mine / (mine + others * (highest - top).exp())
    change = (new - weight / (weight + others)) * (slope - mean)
    each = change.sum(2).unflatten(1, (k.shape[1], -1)).sum(2)
    return each.transpose(1, 2).to(g.dtype)


def _without_each(x: Float[Tensor, "*dims key"]) -> Float[Tensor, "*dims key"]:
    """The sum over all keys but one, for each."""
    before = x.cumsum(-1).roll(1, -1)
    after = x.flip(-1).cumsum(-1).roll(1, -1)
    before[..., 0] = after[..., 0] = 0.0
    return before + after.flip(-1)


def _heads(run: Run, site: Site) -> Heads:
    return at_least_float32(run[site.key].detach()).transpose(1, 2)


def _chunks(q: Heads, k: Heads) -> list[slice]:
    """Prompts a few at a time, so that maps stay within bounds."""
    per = q.shape[1] * q.shape[2] * k.shape[2]
    step = max(1, limit("qk_map_entries") // per)
    return [slice(i, i + step) for i in range(0, len(q), step)]
