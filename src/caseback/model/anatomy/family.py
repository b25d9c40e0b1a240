"""What a decoder family declares of itself: dotted paths to its parts and a few facts.

The defaults are Llama's; ``families`` writes every other family as a difference from a neighbor, and ``anatomy``
resolves a declaration on a model in hand. A fused projection also says which of its output rows are whose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Layout = Callable[["Dims"], tuple[Tensor, Tensor, Tensor]]
"""Output rows of a fused projection: (head, d_head) for q, (kv_head, d_head) for k and for v."""


@dataclass(frozen=True)
class Dims:
    """Sizes of one layer's attention, as its projections have them."""

    n_heads: int
    n_kv_heads: int
    d_head: int


Join = Callable[[Tensor, Tensor], Tensor]
"""The stream after a write: of the stream before it, and the write."""


def normed(norm: nn.Module) -> Join:
    """The sum is normalized (BERT)."""
    return lambda stream, write: norm(stream + write)


def _take(rows: Tensor, counts: tuple[int, int, int], d_head: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = rows.split(counts)
    return q, k, v


def blocks(dims: Dims) -> tuple[Tensor, Tensor, Tensor]:
    """All queries, then all keys, then all values (GPT-2, Phi-3, MPT)."""
    counts = (dims.n_heads, dims.n_kv_heads, dims.n_kv_heads)
    return _take(torch.arange(sum(counts) * dims.d_head).view(-1, dims.d_head), counts, dims.d_head)


def groups(dims: Dims) -> tuple[Tensor, Tensor, Tensor]:
    """One group per key/value head: its queries, its key, its value (NeoX, BLOOM, Falcon, GPT-BigCode)."""
    per = dims.n_heads // dims.n_kv_heads
    rows = torch.arange(dims.n_kv_heads * (per + 2) * dims.d_head).view(dims.n_kv_heads, per + 2, dims.d_head)
    return rows[:, :per].reshape(-1, dims.d_head), rows[:, per], rows[:, per + 1]


def codegen(dims: Dims) -> tuple[Tensor, Tensor, Tensor]:
    """Four model-parallel slices, in each all queries, all values, all keys (CodeGen)."""
    rows = torch.arange(3 * dims.n_heads * dims.d_head).view(4, 3, dims.n_heads // 4, dims.d_head)
    q, v, k = (rows[:, i].reshape(-1, dims.d_head) for i in range(3))
    return q, k, v


def _always(value: Any) -> Callable[..., Any]:
    return lambda config, *_: value


@dataclass(frozen=True)
class Family:
    """Where the parts of a decoder family are; the defaults are Llama's.

    Paths of the first group start at the model, the others at a decoder layer, its attention or its MLP. A path of
    None says that the family has no such part. ``|`` separates alternatives, the first that exists is taken: layers
    of one model may differ.
    """

    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    embed_project: str | None = None
    embed_norm: str | None = None
    embed_whole: str | None = None
    """The module whose output starts the stream, where positions or token types are added inside of it (BERT)."""
    pos_embed: str | None = None
    final_norm: str | None = "model.norm"
    unembed_project: str | None = None
    readout: Callable[[nn.Module, Tensor], Tensor] | None = None
    """What stands between the final norm and the unembedding and is not linear (BERT's dense layer, activation and
    norm), of the model and the stream."""
    unembed: str = "lm_head"
    embed_scale: Callable[[Any, nn.Module], float] = _always(1.0)
    """What the token embeddings are multiplied by outside the embedding module, which is handed over: Gemma's
    multiplied them itself only from some release on."""
    logit_scale: Callable[[Any], float] = _always(1.0)
    logit_softcap: Callable[[Any], float | None] = _always(None)
    residual_scale: Callable[[Any], float] = _always(1.0)
    """What attention and MLP outputs are multiplied by before they are added to the stream."""

    attn: str = "self_attn"
    mlp: str = "mlp"
    attn_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None
    parallel: Callable[[Any], bool] = _always(False)
    """Attention and MLP read the same stream. Where ``mlp_norm`` is absent they share one norm."""

    qkv: str | None = None
    layout: Layout = blocks
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    heads: Callable[[Any, nn.Module], int] = lambda config, attn: config.num_attention_heads
    """Query heads of one attention module; it is handed over since layers may differ (Laguna)."""
    kv_heads: Callable[[Any], int | None] = lambda config: getattr(config, "num_key_value_heads", None)
    before_o: str | None = None
    """What stands between z and W_O, in words: a gate or a norm. z is then taken as attention makes it, and a
    head's write from its share of what reaches W_O: with the gate or the norm's scale frozen the writes sum."""

    w_in: str | None = "up_proj"
    w_gate: str | None = "gate_proj"
    gate_up: str | None = None
    """A projection that holds W_gate and W_in together."""
    gate_first: bool = True
    gate_interleaved: bool = False
    w_out: str | None = "down_proj"
    act: str = "act_fn"
    router: str | None = None
    experts: str | None = None

    joins: Callable[[nn.Module, int], tuple[Join, Join]] | None = None
    """How the writes of a layer's attention and MLP reach the stream, where it is not by adding: found on the layer."""
    unsummed: str | None = None
    """Why the writes do not sum to the stream, or the stream does not give the logits linearly: what splits a
    prediction among writes is then refused in these words."""
    mlp_beside: str | None = None
    """A second MLP of the layer, called after the first on the same input; ``mlp_out`` is their sum."""
    mlp_is_layer: bool = False
    """The layer itself holds the MLP's projections (OPT)."""
    mlp_adds_residual: bool = False
    """The MLP module returns the stream with its write added (BLOOM, MPT)."""
    counts_from_cache: bool = False
    """Attention takes its positions from the cache's length, not from what it is handed (Llama 4)."""
    mlp_overwritten: bool = False
    """The layer adds to the MLP's output in place (Falcon)."""
    lacks: dict[str, str] = field(default_factory=dict)
    """Sites that the family cannot have, and why."""

    def but(self, **changes: Any) -> Family:
        """This family with some parts elsewhere."""
        return replace(self, **changes)
