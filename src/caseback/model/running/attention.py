"""Attention, seen from inside: queries, keys, values, scores and pattern of any family.

    scores = cap(q k^T * scaling) + mask,    pattern = softmax(scores [, sink]),    z = pattern v

While one of these is wanted, a function registered in ``transformers.AttentionInterface`` is called in place of the
model's own. As long as nothing inside is edited it passes the same tensors on to the model's own function, so reading
never changes a logit. ``scores`` are as the softmax takes them: scaled, capped, masked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.anatomy.legacy import CACHE_NAMES, projection_of
from caseback.model.running.passing import Hooks, Pass, acts, current_pass, hooked

NAME = "caseback"
Heads = Float[Tensor, "batch head pos d_head"]
Scores = Float[Tensor, "batch head query key"]


class Attender(Protocol):
    """Whoever wants to see attention: called once per layer with what enters it, returns z (batch, pos, head, d)."""

    def __call__(
        self, layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **how: Any
    ) -> Tensor: ...


class _Active(NamedTuple):
    attender: Attender
    layers: dict[int, int]
    owner: Pass


_active: ContextVar[_Active | None] = ContextVar("caseback_attention", default=None)
_natives: dict[int, str] = {}
"""What the configurations that now say ``NAME`` said before, by their id."""


def native_name(config: Any) -> str:
    """The attention implementation that a configuration names, also while ours stands in its place."""
    return str(_natives.get(id(config), config._attn_implementation))


def _attention(module, query, key, value, attention_mask, **how):
    active = _active.get()
    if active is None or not acts(active.owner) or id(module) not in active.layers:
        # Somebody else's call while a pass runs: another thread's, or one that an edit makes of the plain model.
        own = _function(module, native_name(module.config))
        if own is None:
            raise RuntimeError(f"{type(module).__name__} has no attention of its own for another call during a pass")
        return own(module, query, key, value, attention_mask, **how)
    z = active.attender(active.layers[id(module)], module, query, key, value, attention_mask, **how)
    for fn in active.owner.on_z.get(module, ()):
        z = fn(z)
    return z, None


def _mask(**arguments):
    config = arguments.get("config")
    own = "sdpa" if config is None else native_name(config)
    return ALL_MASK_ATTENTION_FUNCTIONS.get(own, sdpa_mask)(**arguments)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


def uses_interface(anatomy: Anatomy) -> bool:
    """Whether the family calls transformers' attention interface; if not, it is older than that."""
    return projection_of(anatomy.layers[0].attn) is None


@contextmanager
def attending(anatomy: Anatomy, attender: Attender, *, peek: bool = False) -> Iterator[None]:
    """Give every layer's attention to ``attender`` while the context lasts; then everything is as before.

    With ``peek`` the caller only looks: a family older than the interface then runs its own attention, and what
    enters it is computed a second time beside it, so that its logits stay the same to the bit.
    """
    layers = {id(p.attn): i for i, p in enumerate(anatomy.layers)}
    owner = current_pass()
    assert owner is not None
    with hooked() as hooks:
        undo = hooks.undo
        undo.change((_active.set, _Active(attender, layers, owner)), (_active.set, _active.get()))
        for i, parts in enumerate(anatomy.layers if not uses_interface(anatomy) else ()):
            _stand_in(hooks, parts, i, attender, peek)
        for config in {id(c): c for c in _configs(anatomy)}.values() if uses_interface(anatomy) else ():
            undo.put(_natives, id(config), native_name(config))
            undo.put(config.__dict__, "_attn_implementation_internal", NAME)
        yield


def _stand_in(hooks: Hooks, parts: LayerParts, layer: int, attender: Attender, peek: bool) -> None:
    """Put our attention in place of an older family's, or beside it."""
    ours = _legacy_forward(parts.attn, parts.o, layer, attender)

    def beside(_, args, kwargs):
        ours(*args, peek=True, **kwargs)

    if peek:
        hooks.before(parts.attn, beside)
    else:
        hooks.in_place_of(parts.attn, ours)


def _configs(anatomy: Anatomy) -> Iterator[Any]:
    yield anatomy.hf.config
    yield anatomy.config
    for module in anatomy.modules:
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation_internal"):
            yield config


def _legacy_forward(module: nn.Module, o: nn.Module, layer: int, attender: Attender) -> Callable:
    """An attention forward for a family older than the interface: its own projections, our attention, its W_O."""
    project = projection_of(module)
    assert project is not None
    holds_o = any(part is o for part in module.modules())  # BERT's stands outside of it

    def forward(hidden_states: Tensor, *args: Any, peek: bool = False, **kwargs: Any):
        for name in CACHE_NAMES & kwargs.keys():
            kwargs["cache"] = kwargs.pop(name)
        projected = project(module, hidden_states, *args, **kwargs)
        z = attender(
            layer,
            module,
            projected.q,
            projected.k,
            projected.v,
            projected.mask,
            scaling=projected.scaling,
            position_bias=projected.position_bias,
        )
        if peek:
            return None
        z = z.flatten(-2)
        out = o(z) if holds_o else z
        out = out if projected.residual is None else projected.residual + out
        return (out, None) if projected.returned is None else projected.returned(out)

    return forward


def native(module: nn.Module) -> Callable | None:
    """The attention function that the model itself would call; None where only ours can take its place."""
    if _active.get() is None or projection_of(module) is not None:
        return None
    name = native_name(module.config)
    return _function(module, name) if name in ("eager", "sdpa") else None


def _function(module: nn.Module, name: str) -> Callable | None:
    """A family's own function of an implementation."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return eager if name == "eager" else ALL_ATTENTION_FUNCTIONS.get(name)


def repeat_heads(x: Float[Tensor, "batch kv_head pos d"], n_heads: int) -> Float[Tensor, "batch head pos d"]:
    """Keys or values as each query head sees them: n_heads / kv_heads query heads in a row share one."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def causal(n_query: int, n_key: int, device: torch.device) -> Bool[Tensor, "1 1 query key"]:
    """The plain causal mask, the last query aligned with the last key."""
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)[None, None]


def masked(scores: Scores, mask: Tensor | None) -> Scores:
    """Scores under a mask of any of the interface's kinds: boolean, additive, or None for plain causal."""
    return (scores + _added(scores, mask)).clamp_min(torch.finfo(scores.dtype).min)


_MASKS = 4
"""Masks that a pass remembers: a model has one or two, which all its layers share."""


def _added(scores: Scores, mask: Tensor | None) -> Tensor:
    """A mask as what is added to the scores, formed once for all layers of a pass."""
    owner = current_pass()
    known = {} if owner is None else owner.masks
    key = id(mask), scores.shape[-2:], scores.dtype, scores.device
    if key not in known:
        if len(known) == _MASKS:
            known.pop(next(iter(known)))
        known[key] = mask, _as_added(scores, mask)  # the mask is held, so that no other takes its id
    return known[key][1]


def _as_added(scores: Scores, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = causal(scores.shape[-2], scores.shape[-1], scores.device)
    return additive(mask[..., : scores.shape[-1]], scores.dtype)


def visible(scores: Scores, mask: Tensor | None) -> Bool[Tensor, "batch head query key"] | None:
    """Which keys a mask lets each query see, one head for all where it does; None for a plain causal one."""
    return None if mask is None else unmasked(_added(scores, mask)).expand(len(scores), -1, scores.shape[-2], -1)


def unmasked(added: Tensor) -> Bool[Tensor, "*dims"]:
    """Where what is added to scores hides no key: position biases are nowhere near the least number."""
    return added > max(torch.finfo(added.dtype).min, torch.finfo(torch.float32).min) / 2


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of truth values as what is added to scores; one that is added already as it is."""
    if mask.dtype != torch.bool:
        return mask
    # a sum takes a third of the time of masked_fill, which reads truth values one by one
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(dtype).min)


def scores_of(
    q: Heads,
    k: Float[Tensor, "batch kv_head key d_head"],
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> Scores:
    """Attention scores as the softmax takes them."""
    factor: float = q.shape[-1] ** -0.5 if scaling is None else scaling
    # a map is the largest tensor of its layer: what can be written into it is
    scores = (q @ repeat_heads(k, q.shape[1]).transpose(-1, -2)).mul_(factor)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    added = _added(scores, mask)
    if added.dtype != scores.dtype:
        return masked(scores, mask)
    return scores.add_(added).clamp_min_(torch.finfo(scores.dtype).min)


def pattern_of(scores: Scores, module: nn.Module, *, s_aux: Tensor | None = None, **_: Any) -> Scores:
    """Softmax over keys, in float32 at least; a learned sink (gpt-oss) takes its share and is dropped."""
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    sinks = s_aux if s_aux is not None else getattr(module, "sinks", None)
    if sinks is None:
        return torch.softmax(scores, -1, dtype=wide).to(scores.dtype)
    column = sinks.reshape(1, -1, 1, 1).to(scores).expand(scores.shape[0], -1, scores.shape[2], 1)
    return torch.softmax(torch.cat([scores, column], -1), -1, dtype=wide)[..., :-1].to(scores.dtype)


def mix(pattern: Scores, v: Float[Tensor, "batch kv_head key d"]) -> Float[Tensor, "batch query head d"]:
    """z: values weighted by the pattern, positions before heads, laid out as the models' own functions do."""
    return (pattern.to(v.dtype) @ repeat_heads(v, pattern.shape[1])).transpose(1, 2).contiguous()
