"""Crystal: a decoder with nothing between its parts, the architecture of compiled and hand-made models.

    x = W_E[t] + W_pos[i];    for each layer: x += heads(norm(x)), x += act(norm(x) W_in + b_in) W_out + b_out;
    logits = norm(x) W_U

The norm may be absent (the default), so that what is written into the stream is what is read from it. Heads may have
any width and any scale of their scores. Otherwise it is an ordinary causal ``PreTrainedModel``: it saves, loads,
caches, generates and takes any attention implementation of transformers.
"""

from __future__ import annotations

import warnings
from dataclasses import fields
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from caseback.errors import CasebackError

# what this release of transformers calls the keys and values of earlier tokens
CACHE = next(f.name for f in fields(CausalLMOutputWithPast) if f.name in ("cache", "past_key_values"))
# and the embeddings that masks are made for; the first releases of transformers 5 also ask for the columns' numbers
OF_MASKS = signature(create_causal_mask).parameters
EMBEDDINGS = "inputs_embeds" if "inputs_embeds" in OF_MASKS else "input_embeds"
NORMS = {"none": nn.Identity, "layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class CrystalConfig(PreTrainedConfig):
    """Sizes and choices of a ``CrystalForCausalLM``.

    Parameters
    ----------
    vocab_size, max_position_embeddings, hidden_size, num_hidden_layers, num_attention_heads, head_dim,
    intermediate_size
        Sizes; ``head_dim`` None is ``hidden_size / num_attention_heads``, and ``intermediate_size`` 0 leaves attention
        alone.
    hidden_act
        A name that transformers knows: ``"relu"``, ``"gelu"``, ``"linear"`` …
    norm
        ``"none"``, ``"layernorm"`` or ``"rmsnorm"``, before attention, the MLP and the unembedding.
    attention_scale
        What scores are multiplied by; None is ``head_dim ** -0.5``.

    Raises
    ------
    CasebackError
        For an unknown norm.
    """

    model_type = "crystal"

    def __init__(
        self,
        vocab_size: int = 64,
        max_position_embeddings: int = 32,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        head_dim: int | None = None,
        intermediate_size: int = 256,
        hidden_act: str = "relu",
        norm: str = "none",
        norm_eps: float = 1e-5,
        attention_scale: float | None = None,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ):
        if norm not in NORMS:
            raise CasebackError(f"norm {norm!r} is unknown: expected one of {', '.join(NORMS)}")
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads if head_dim is None else head_dim
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.norm = norm
        self.norm_eps = norm_eps
        self.attention_scale = self.head_dim**-0.5 if attention_scale is None else attention_scale
        self.initializer_range = initializer_range
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention spelled out: (batch, head, pos, d_head) in, (batch, pos, head, d_head) and the pattern out."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = scores.softmax(-1)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


class CrystalAttention(nn.Module):
    """Heads side by side: each reads the stream through its Q, K, V and writes through its rows of O."""

    def __init__(self, config: CrystalConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim, self.scaling = config.head_dim, config.attention_scale
        self.is_causal = True
        width = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, cache: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        split = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (p(x).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        chosen = self.config._attn_implementation or "eager"
        attend = eager_attention_forward if chosen == "eager" else ALL_ATTENTION_FUNCTIONS[chosen]
        z, pattern = attend(self, q, k, v, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.o_proj(z.reshape(*x.shape[:-1], -1)), pattern


class CrystalMLP(nn.Module):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: CrystalConfig):
        super().__init__()
        with warnings.catch_warnings():
            # torch warns of an MLP of no neurons
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
            self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)))


def _norm(config: CrystalConfig) -> nn.Module:
    kind = NORMS[config.norm]
    return kind() if kind is nn.Identity else kind(config.hidden_size, eps=config.norm_eps)


class CrystalLayer(nn.Module):
    """Attention, then the MLP, each adding to the stream."""

    def __init__(self, config: CrystalConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = CrystalAttention(config, layer_idx)
        self.post_attention_layernorm = _norm(config)
        self.mlp = CrystalMLP(config)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), **kwargs)[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class CrystalPreTrainedModel(PreTrainedModel):
    """What transformers must know of the architecture."""

    config: CrystalConfig
    config_class = CrystalConfig
    base_model_prefix = "model"
    _no_split_modules = ["CrystalLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class CrystalModel(CrystalPreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: CrystalConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(CrystalLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        seen = 0 if cache is None else cache.get_seq_length()
        columns = torch.arange(seen, seen + x.shape[1], device=x.device)
        if position_ids is None:
            position_ids = columns[None]
        given: dict[str, Any] = {CACHE: cache, EMBEDDINGS: x}
        if "cache_position" in OF_MASKS:
            given["cache_position"] = columns
        mask = create_causal_mask(config=self.config, attention_mask=attention_mask, position_ids=position_ids, **given)
        x = x + self.embed_positions(position_ids)
        for layer in self.layers:
            x = layer(x, attention_mask=mask, cache=cache, position_ids=position_ids, **kwargs)
        return self.norm(x), cache


class CrystalForCausalLM(CrystalPreTrainedModel, GenerationMixin):
    """A ``CrystalModel`` with its unembedding.

    Examples
    --------
    >>> import caseback as cb
    >>> hf = CrystalForCausalLM(CrystalConfig(vocab_size=9, hidden_size=8, num_attention_heads=2)).eval()
    >>> cb.load(hf).run([[1, 2, 3]]).logits.shape
    torch.Size([1, 3, 9])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: CrystalConfig):
        super().__init__(config)
        self.model = CrystalModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        # spelled out, since transformers looks at this signature to learn what it may hand over
        cache = past_key_values if cache is None else cache
        x, cache = self.model(input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache, **kwargs)
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, columns])
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})


AutoConfig.register("crystal", CrystalConfig, exist_ok=True)
AutoModelForCausalLM.register(CrystalConfig, CrystalForCausalLM, exist_ok=True)
