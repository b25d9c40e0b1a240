"""A tiny model of every causal language model class that transformers maps, without knowing any.

The zoo names each family's fields; here a family's default config is shrunk by
the names of its fields alone, nested configs and per-layer lists included, so
that a family which a later release adds is swept without an edit. `sweep`
yields each model or the reason why there is none, and whether its decoder
consists of attention and feed-forward layers only.
Run as a script, it prints the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from zoo import FLOAT32_ONLY, from_config

LAYERS, VOCAB = 4, 64

# The first pattern that matches a field's whole name gives its size.
_SIZES: tuple[tuple[str, int | None], ...] = (
    (r"vocab_size\w*|\w*_vocab_size", VOCAB),
    (r"(num_)?(hidden|encoder|decoder|n|num)_(hidden_)?layers?|depth|n_layers?", LAYERS),
    (r"linear_num_key_heads|linear_num_value_heads|mamba_n(um)?_heads|\w*num_heads_ssm", 4),
    (r"(swa_)?(num_|n_)?(global_|swa_|full_)?(key_value|kv|key)_heads|kv_n_heads", 2),
    (r"(num_|n_|swa_|encoder_|decoder_|index_n_|indexer_n_)?(num_)?(attention_|query_)?heads?", 4),
    (r"(swa_)?(qk_)?rope_head_dim|rotary_dim", 4),
    (r"qk_head_dim|swa_head_dim", 12),
    (r"\w*head_dim|head_size|\w*d_head|kv_channels|\w*head_width", 8),
    (r"\w*lora_rank|\w*_rank|laurel_rank", 8),
    (r"\w*(intermediate|ffn|ffn_hidden|inner)_(size|dim)\w*|d_ff|dff|n_inner|ffn_dim", 48),
    (r"hidden_size_per_layer_input|attention_hidden_size|index_head_dim", 32),
    (r"\w*hidden_size|n_embd|d_model|embed_dim|\w*embedding_size|dim|hidden_dim|lru_width", 32),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq\w*_len\w*|\w*max_position\w*", 64),
    (r"\w*sliding_window\w*|window_size|\w*chunk_size\w*|local_attention|\w*_window", 8),
    (r"\w*(per_tok|top_?k(_experts)?|moe_k|topk)", 2),
    (r"(num|n)_(shared|zero)_experts|\w*shared_experts?_?\w*num\w*", 1),
    (r"\w*(num|n)_(\w+_)?experts?|num_experts\w*", 4),
    (r"(n|num)_(expert_)?groups?|topk_group", 1),
    (r"\w*d_state|\w*state_size|ssm_\w*size", 8),
    (r"\w*(period|interval|every_n_layers|layer_step|window_pattern|_every)", 2),
    (r"\w*offset", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"num_kv_shared_layers", 0),
    (r"moe_layer_end_index", LAYERS - 1),
    (r"image_size|patch_size|num_channels|\w*kernel(_size)?|\w*d_conv|expand|\w*_factor", None),
)
# Left open by some defaults, which then cannot be built; here as the sizes above imply them.
_OPEN = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
}
# None above: the field keeps its value. Other integers from here on are sizes nobody named.
_LARGE, _SMALL = 256, 32

# Class names as they are written: GPT-2's linear layer is a Conv1D, a convolution a Conv1d.
_NOT_ATTENTION = re.compile(
    r"Mamba|SSM|Conv1d|ShortConv|Rwkv|RWKV|Recurrent|RgLru|LSTM|DeltaNet|DeltaAttention|"
    r"LinearAttention|Lightning|Retention|LSH"
)
_CROSS = re.compile(r"encoder_attn$|cross_?att", re.IGNORECASE)
_OTHER_INPUTS = re.compile(r"vision|audio|image|speech|video|codec", re.IGNORECASE)


@dataclass(frozen=True)
class Specimen:
    """One class of the mapping: its model or the error, and what keeps it from being a plain decoder."""

    name: str
    class_name: str
    model: PreTrainedModel | None
    error: Exception | None
    obstacle: str | None

    @property
    def attention_only(self) -> bool:
        """Whether it was built and is a decoder of attention and feed-forward layers only."""
        return self.model is not None and self.obstacle is None


def sweep(
    names: Iterable[str] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Iterator[Specimen]:
    """Every causal language model class of transformers, tiny, or the error instead.

    Examples
    --------
    >>> [specimen.attention_only for specimen in sweep(["llama", "mamba"])]
    [True, False]
    """
    for name in names:
        class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
        try:
            config = shrunk(name)
            _refuse_large(config)
            model = from_config(config, torch.float32 if name in FLOAT32_ONLY else dtype, seed)
            causal = _is_causal(model)
        except Exception as error:  # noqa: BLE001  whatever a family raises is its row in the table
            yield Specimen(name, class_name, None, error, None)
        else:
            reason = obstacle(model) or (None if causal else "not causal")
            yield Specimen(name, class_name, model, None, reason)


def shrunk(model_type: str) -> PretrainedConfig:
    """The default config of a model type with every size replaced by a tiny one."""
    default = CONFIG_MAPPING[model_type]()
    fields = _shrink(default.to_dict())
    # Encoders of the BERT line attend in both directions until they are told that they are decoders.
    if "is_decoder" in fields:
        fields["is_decoder"] = True
    fields["use_cache"] = False
    return type(default).from_dict(fields)


def obstacle(model: PreTrainedModel) -> str | None:
    """What makes a model something else than a decoder of attention and MLP layers; None if nothing does."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    for name, module in model.named_modules():
        kind = type(module).__name__
        if _CROSS.search(name):
            return f"attends to an encoder: {name}"
        if _OTHER_INPUTS.search(kind):
            return f"reads more than tokens: {name} is a {kind}"
        if _NOT_ATTENTION.search(kind):
            return f"not attention: {name or 'the model'} is a {kind}"
    text = config.get_text_config()
    kinds = {str(kind) for kind in getattr(text, "layer_types", None) or []}
    other = sorted(kind for kind in kinds if "attention" not in kind or "linear" in kind)
    return f"not attention: layers of kind {', '.join(other)}" if other else None


def _shrink(fields: dict[Any, Any], depth: int | None = None, kept: list[int] | None = None) -> dict[Any, Any]:
    if kept is None or _depth(fields) is not None:
        depth = _depth(fields)
        kept = _kept_layers(fields, depth)
    if kept and fields and all(str(name).isdecimal() for name in fields):
        # One entry a layer, under its number.
        layers = {int(name): value for name, value in fields.items()}
        return {new: _shrink_field("", layers[old], depth, kept) for new, old in enumerate(kept) if old in layers}
    small = {
        name: _shrink_field(name, value, depth, kept)
        for name, value in fields.items()
        if name not in ("id2label", "label2id")
    }
    small |= {name: size for name, size in _OPEN.items() if small.get(name, size) is None}
    if small.get("kv_lora_rank"):
        # Latent attention expands its keys to all heads and rotates a part of its own width.
        small |= {"num_key_value_heads": small["num_attention_heads"]}
        small |= {"head_dim": small["qk_rope_head_dim"]} if "head_dim" in small else {}
    return small


def _shrink_field(name: str, value: Any, depth: int | None, kept: list[int]) -> Any:
    if isinstance(value, dict):
        return _shrink(value, depth, kept)
    if isinstance(value, list):
        if depth is not None and len(value) == depth:
            value = [value[layer] for layer in kept]
        elif "layer" in name and all(type(entry) is int for entry in value):
            # A list of layer numbers: those that are left.
            return [new for new, old in enumerate(kept) if old in value]
        elif name == "mrope_section":
            return [2, 1, 1]
        return [_shrink_field(name, entry, None, []) for entry in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if re.fullmatch(r"\w*token_(id|index)", name):
        return value if value < VOCAB else VOCAB - 1
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, name):
            return value if size is None else min(value, size)
    return _SMALL if value >= _LARGE else value


def _depth(fields: dict[str, Any]) -> int | None:
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if isinstance(fields.get(name), int):
            return fields[name]
    kinds = _kinds(fields)
    return None if kinds is None else len(kinds)


def _kinds(fields: dict[str, Any]) -> list[Any] | None:
    return fields.get("layer_types") or fields.get("layers_block_type")


def _kept_layers(fields: dict[str, Any], depth: int | None) -> list[int]:
    """Which layers stay: the first of each kind, then the lowest others, in order."""
    if depth is None:
        return []
    kinds = next((v for n, v in fields.items() if re.search(r"layer_types|layers_block_type", n) and v), None)
    firsts = [] if kinds is None else [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    order = dict.fromkeys([*firsts, *range(depth)])
    return sorted(list(order)[: min(LAYERS, depth)])


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    tokens = torch.arange(3, 13)[None]
    other = tokens.clone()
    other[0, -1] += 20
    difference = (model(tokens).logits - model(other).logits).abs().amax((0, 2))
    return bool(difference[-1] > 1e-3 and difference[:-1].max() < 1e-6)


def _refuse_large(config: PretrainedConfig, limit: int = 20_000_000) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > limit:
        raise ValueError(f"the shrunk config still gives {size:,} parameters, more than {limit:,}")


def _print_table() -> None:
    logging.set_verbosity_error()
    built = plain = 0
    for specimen in sweep():
        built += specimen.model is not None
        plain += specimen.attention_only
        verdict = specimen.obstacle or "attention only"
        if specimen.error is not None:
            verdict = f"{type(specimen.error).__name__}: {specimen.error}".replace("\n", " ")[:150]
        print(f"{specimen.name:24s} {specimen.class_name:32s} {verdict}", flush=True)
    print(f"{built} of {len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)} built, {plain} of them attention only")


if __name__ == "__main__":
    _print_table()
