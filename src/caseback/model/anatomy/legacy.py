"""Families older than transformers' attention interface: what their attention makes of the stream.

Each function does what the family's attention module does up to the scores: project, split heads, rotate, append to
the cache. ``Projected`` then says the rest in the interface's terms, so that one attention serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CACHE_NAMES = frozenset({"cache", "past_key_values", "layer_past"})
"""What layers and models call the keys and values of earlier tokens, from one release of transformers to the next."""


@dataclass(frozen=True)
class Projected:
    """Queries, keys and values as they enter attention, and what the scores need besides."""

    q: Float[Tensor, "batch head pos d_head"]
    k: Float[Tensor, "batch kv_head key d_head"]
    v: Float[Tensor, "batch kv_head key d_head"]
    mask: Tensor | None
    scaling: float
    position_bias: Tensor | None = None
    residual: Tensor | None = None
    """What the attention module itself adds to its output (BLOOM adds the stream)."""
    returned: Callable[[Tensor], Any] | None = None
    """What the module returns for its output, where that is not a pair of it and nothing."""


def _heads(x: Tensor, d_head: int) -> Tensor:
    return x.unflatten(-1, (-1, d_head))


def _cached(cache, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    return (k, v) if cache is None else cache.update(k, v, layer)


def _rotate_pairs(module: Any, x: Tensor, position_ids: Any) -> Tensor:
    """GPT-J's and CodeGen's rotary embedding: interleaved pairs, on the first ``rotary_dim`` dimensions."""
    apply = import_module(type(module).__module__).apply_rotary_pos_emb
    table = module.embed_positions.to(x.device)[position_ids]
    sin, cos = table.to(x.dtype).chunk(2, dim=-1)
    width = module.rotary_dim or x.shape[-1]
    rotated = x.clone()
    rotated[..., :width] = apply(x[..., :width], sin, cos)
    return rotated


def gptj(module: Any, hidden_states, cache=None, attention_mask=None, position_ids=None, **_) -> Projected:
    """Separate projections, rotary pairs."""
    q, k, v = (_heads(p(hidden_states), module.head_dim) for p in (module.q_proj, module.k_proj, module.v_proj))
    q, k = (_rotate_pairs(module, x, position_ids).transpose(1, 2) for x in (q, k))
    k, v = _cached(cache, k, v.transpose(1, 2), module.layer_idx)
    return Projected(q, k, v, attention_mask, 1 / module.scale_attn)


def codegen(module, hidden_states, cache=None, attention_mask=None, position_ids=None, **_) -> Projected:
    """One projection in four slices of queries, values and keys, rotary pairs."""
    sliced = _heads(module.qkv_proj(hidden_states), module.qkv_proj.out_features // 4)
    q, v, k = (_heads(x, module.head_dim).flatten(-3, -2) for x in sliced.chunk(3, dim=-1))
    q, k = (_rotate_pairs(module, x, position_ids).transpose(1, 2) for x in (q, k))
    k, v = _cached(cache, k.to(hidden_states.dtype), v.transpose(1, 2), module.layer_idx)
    return Projected(q, k, v, attention_mask, 1 / module.scale_attn)


def gpt_neo(module, hidden_states, attention_mask=None, cache=None, **_) -> Projected:
    """Separate projections, no scaling, a window in every other layer."""
    projections = (module.q_proj, module.k_proj, module.v_proj)
    q, k, v = (_heads(p(hidden_states), module.head_dim).transpose(1, 2) for p in projections)
    k, v = _cached(cache, k, v, module.layer_id)
    local = module.bias[:, :, k.shape[2] - q.shape[2] : k.shape[2], : k.shape[2]]
    if attention_mask is not None:
        seen = attention_mask if attention_mask.dtype.is_floating_point is False else attention_mask >= -1.0
        local = local & seen[..., : k.shape[2]]
    return Projected(q, k, v, local, 1.0)


def bloom(module, hidden_states, residual, alibi, attention_mask, cache=None, **_) -> Projected:
    """ALiBi beside the scaled scores; the module adds the stream itself."""
    q, k, v = module._reshape(module.query_key_value(hidden_states))
    k, v = _cached(cache, k, v, module.layer_idx)
    bias = alibi.view(-1, module.num_heads, 1, alibi.shape[-1])
    return Projected(q, k, v, attention_mask, module.inv_norm_factor, bias, residual)


def falcon(
    module, hidden_states, alibi, attention_mask, position_ids=None, cache=None, position_embeddings=None, **_
) -> Projected:
    """Rotary or ALiBi; grouped, multi-query or one key/value head per query head."""
    q, k, v = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
    if alibi is None:
        rotate = import_module(type(module).__module__).apply_rotary_pos_emb
        q, k = rotate(q, k, *(position_embeddings or ()))
    if module.new_decoder_architecture:
        # Repeated for every query head of their group by `_split_heads`: one of each is the key/value head.
        k, v = (x[:, :: module.num_heads // module.num_kv_heads] for x in (k, v))
    k, v = _cached(cache, k, v, module.layer_idx)
    bias = None
    if alibi is not None and module.config._attn_implementation != "sdpa":
        bias = alibi.view(-1, module.num_heads, 1, alibi.shape[-1]) * module.inv_norm_factor
    return Projected(q, k, v, attention_mask, module.inv_norm_factor, bias)


def mpt(module, hidden_states, position_bias, cache=None, attention_mask=None, **_) -> Projected:
    """One projection, ALiBi."""
    qkv = module.Wqkv(hidden_states)
    if module.clip_qkv:
        qkv = qkv.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    q, k, v = (_heads(x, module.head_dim).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
    k, v = _cached(cache, k, v, module.layer_idx)
    bias = None
    if position_bias is not None:
        # Counted from the last column of the batch; from a prompt's own first token padding does not shift it, and a
        # constant along a row of scores makes no difference to the softmax.
        bias = position_bias[None, :, -1:, position_bias.shape[-1] - k.shape[2] :]
        seen = k.new_ones(len(k), k.shape[2]) if attention_mask is None else ~attention_mask[:, 0, -1, : k.shape[2]]
        bias = bias - bias[0, :, 0, seen.int().argmax(-1)].T[:, :, None, None]
    return Projected(q, k, v, None if attention_mask is None else ~attention_mask, module.softmax_scale, bias)


def xglm(module, hidden_states, _=None, cache=None, attention_mask=None, **__) -> Projected:
    """Separate projections, queries scaled before the scores."""
    q = module.q_proj(hidden_states) * module.scaling
    k, v = module.k_proj(hidden_states), module.v_proj(hidden_states)
    q, k, v = (_heads(x, module.head_dim).transpose(1, 2) for x in (q, k, v))
    k, v = _cached(cache, k, v, module.layer_idx)
    return Projected(q, k, v, attention_mask, 1.0)


def bert(module, hidden_states, attention_mask=None, cache=None, sinusoidal_pos=None, **_) -> Projected:
    """Separate projections; RoFormer rotates pairs, if it is told so values too."""
    d_head = module.attention_head_size
    q, k, v = (_heads(p(hidden_states), d_head).transpose(1, 2) for p in (module.query, module.key, module.value))
    if sinusoidal_pos is not None:
        several = (q, k, v) if module.rotary_value else (q, k)
        q, k, *rest = module.apply_rotary_position_embeddings(sinusoidal_pos, *several)
        v = rest[0] if rest else v
    k, v = _cached(cache, k, v, module.layer_idx)
    return Projected(q, k, v, attention_mask, d_head**-0.5)


def gpt_neox_japanese(
    module, hidden_states, attention_mask, *_, cache=None, position_embeddings=None, **__
) -> Projected:
    """One projection, rotary; the bias of the last layer is handed over beside the output."""
    q, k, v = (
        x.transpose(1, 2) for x in _heads(module.query_key_value(hidden_states), 3 * module.head_size).chunk(3, -1)
    )
    rotate, n = import_module(type(module).__module__).apply_rotary_pos_emb, module.rotary_ndims
    turned = rotate(q[..., :n], k[..., :n], *(position_embeddings or ()))
    q, k = (torch.cat([part, x[..., n:]], -1) for part, x in zip(turned, (q, k), strict=True))
    k, v = _cached(cache, k, v, module.layer_idx)
    bias = module.dense_bias
    return Projected(q, k, v, attention_mask, 1 / module.norm_factor, returned=lambda out: (out, None, bias))


def openai_gpt(module, x, attention_mask=None, **_) -> Projected:
    """One projection; a mask of its own, and no cache."""
    q, k, v = (_heads(part, part.shape[-1] // module.n_head).transpose(1, 2) for part in module.c_attn(x).chunk(3, -1))
    seen = module.bias[:, :, : x.shape[1], : x.shape[1]].bool()
    if attention_mask is not None:
        seen = seen & (attention_mask >= -1.0)
    return Projected(q, k, v, seen, q.shape[-1] ** -0.5 if module.scale else 1.0, returned=lambda out: [out])


_PROJECT: dict[str, Callable[..., Projected]] = {
    "GPTJAttention": gptj,
    "CodeGenAttention": codegen,
    "GPTNeoSelfAttention": gpt_neo,
    "BloomAttention": bloom,
    "FalconAttention": falcon,
    "MptAttention": mpt,
    "XGLMAttention": xglm,
    "MegatronBertSelfAttention": bert,
    "RemBertSelfAttention": bert,
    "BigBirdSelfAttention": bert,
    "RoFormerSelfAttention": bert,
    "GPTNeoXJapaneseAttention": gpt_neox_japanese,
    "Attention": openai_gpt,
}


def projection_of(module: Any) -> Callable[..., Projected] | None:
    """What stands in for an attention module of an older family; None for one that calls transformers' interface.

    Families move to the interface from one release to the next, so the module's own code decides, not its name alone.
    """
    if hasattr(import_module(type(module).__module__), "ALL_ATTENTION_FUNCTIONS"):
        return None
    name = type(module).__name__
    if name == "Attention" and not type(module).__module__.endswith(".modeling_openai"):
        return None  # a name that is no family's own
    return _PROJECT.get(name)
