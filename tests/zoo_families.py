"""The configs of the zoo: one tiny shape for every decoder family of transformers.

Three layers of width 32 with 4 heads; wherever the family allows it 2 key/value
heads, a head width that is not d_model / heads, and both kinds of attention
layer, with a window of 4. Where the code of a family branches, each branch is an
entry of its own, named after what it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

import caseback.model.crystal  # noqa: F401  (registers our own architecture)

VOCAB, D_MODEL, LAYERS, HEADS, KV_HEADS, D_MLP, POSITIONS, WINDOW = 61, 32, 3, 4, 2, 44, 64, 4

# Differs from D_MODEL / HEADS, so that code which divides where it should ask breaks.
D_HEAD = 12

FULL, SLIDING = "full_attention", "sliding_attention"
MIXED = [SLIDING, FULL, SLIDING]

_SHAPE = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": D_HEAD,
    "vocab_size": VOCAB,
    "max_position_embeddings": POSITIONS,
}
_GPT2_SHAPE = {
    "n_embd": D_MODEL,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": D_MLP,
    "n_positions": POSITIONS,
    "vocab_size": VOCAB,
}
# Without special tokens random ids are never padding and generation never stops early.
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

# Every dropout of the decoder; those of classification heads are not among them.
_DROPOUT = r"(?!classifier|summary).*(dropout|pdrop|layerdrop|dropout_prob)"

# Fields that a modelling file reads with getattr while its config does not declare them, in some release.
_UNDECLARED = {"head_dim", "swiglu_limit"}


def _config(model_type: str, shape: dict[str, Any], /, **changes: Any) -> PretrainedConfig:
    """The family's default config with `shape` where it declares such fields, and `changes`."""
    default = CONFIG_MAPPING[model_type]()
    # A config keeps keywords it does not know, so a misspelt field would go unnoticed.
    unknown = [name for name in changes if not hasattr(default, name) and name not in _UNDECLARED]
    if unknown:
        raise KeyError(f"{model_type} has no config field {unknown}")
    fields = {name: value for name, value in shape.items() if _settable(default, name)}
    for name, value in vars(default).items():
        # A model that is by mistake in training mode then shows it.
        if re.fullmatch(_DROPOUT, name) and isinstance(value, float):
            fields[name] = 0.1
    return CONFIG_MAPPING[model_type](**{**fields, **_NO_SPECIAL, **changes})


def _settable(config: PretrainedConfig, name: str) -> bool:
    return hasattr(config, name) and not isinstance(getattr(type(config), name, None), property)


def _llama_like(model_type: str, **changes: Any) -> Callable[[], PretrainedConfig]:
    return partial(_config, model_type, _SHAPE, **changes)


def _gpt2_like(model_type: str, **changes: Any) -> Callable[[], PretrainedConfig]:
    return partial(_config, model_type, _GPT2_SHAPE, **changes)


def _bert_like(model_type: str, **changes: Any) -> Callable[[], PretrainedConfig]:
    return partial(_config, model_type, _SHAPE, **{"is_decoder": True, "use_cache": True, "pad_token_id": 0, **changes})


def _rope(partial_factor: float | None = None, **changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, **changes}
    return rope if partial_factor is None else {**rope, "partial_rotary_factor": partial_factor}


_ROPE_PER_KIND = {SLIDING: _rope(), FULL: _rope(rope_theta=100000.0)}
_LLAMA3_ROPE = _rope(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
_YARN_ROPE = _rope(
    rope_type="yarn",
    factor=4.0,
    beta_fast=32.0,
    beta_slow=1.0,
    mscale=1.0,
    mscale_all_dim=1.0,
    original_max_position_embeddings=16,
)
# The compressed key/value attention of the DeepSeek line: query/key width 8 + 4, value width 10.
_LATENT = {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": 14,
    "q_lora_rank": 18,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "head_dim": 4,
}
_ROUTED_EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 20,
    "routed_scaling_factor": 1.7,
}
_GROUPED_EXPERTS = {**_ROUTED_EXPERTS, "n_shared_experts": 1, "first_k_dense_replace": 1}
_MULTIPLIERS = {
    "embedding_multiplier": 1.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.35,
    "logits_scaling": 1.4,
}

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    # learned positions, GPT-2's names
    "gpt2": _gpt2_like("gpt2"),
    "gpt2_inverse_layer_scale": _gpt2_like("gpt2", scale_attn_by_inverse_layer_idx=True),
    "gpt2_unscaled": _gpt2_like("gpt2", scale_attn_weights=False),
    "gpt_neo": _llama_like(
        "gpt_neo",
        num_layers=LAYERS,
        num_heads=HEADS,
        window_size=WINDOW,
        attention_types=[[["global", "local"], 1], [["global"], 1]],
    ),
    "gpt_bigcode": _gpt2_like("gpt_bigcode", multi_query=True),
    "gpt_bigcode_multi_head": _gpt2_like("gpt_bigcode", multi_query=False),
    "openai_gpt": partial(_config, "openai-gpt", {**_GPT2_SHAPE, "n_inner": None}),
    "ctrl": partial(_config, "ctrl", {**_GPT2_SHAPE, "dff": D_MLP}),
    "opt": _llama_like("opt", ffn_dim=D_MLP, word_embed_proj_dim=D_MODEL),
    "opt_projected": _llama_like("opt", ffn_dim=D_MLP, word_embed_proj_dim=24),
    "opt_post_norm": _llama_like("opt", ffn_dim=D_MLP, word_embed_proj_dim=24, do_layer_norm_before=False),
    "biogpt": _llama_like("biogpt"),
    "xglm": _llama_like("xglm", d_model=D_MODEL, num_layers=LAYERS, attention_heads=HEADS, ffn_dim=D_MLP),
    # caseback's own
    "crystal": _llama_like("crystal", norm="layernorm", head_dim=D_HEAD, attention_scale=0.7),
    # ALiBi
    "bloom": _llama_like("bloom", n_layer=LAYERS, n_head=HEADS),
    "bloom_normed_residual": _llama_like(
        "bloom", n_layer=LAYERS, n_head=HEADS, apply_residual_connection_post_layernorm=True
    ),
    "mpt": _llama_like("mpt", d_model=D_MODEL, n_heads=HEADS, n_layers=LAYERS, max_seq_len=POSITIONS),
    "mpt_clipped": _llama_like(
        "mpt",
        d_model=D_MODEL,
        n_heads=HEADS,
        n_layers=LAYERS,
        max_seq_len=POSITIONS,
        attn_config={"clip_qkv": 1.0, "softmax_scale": 0.5},
    ),
    "falcon_alibi": _llama_like(
        "falcon", ffn_hidden_size=D_MLP, alibi=True, parallel_attn=False, multi_query=False, bias=True
    ),
    # attention and MLP in parallel
    "falcon": _llama_like("falcon", ffn_hidden_size=D_MLP, bias=True),
    "falcon_multi_head": _llama_like("falcon", ffn_hidden_size=D_MLP, bias=True, multi_query=False),
    "falcon_sequential": _llama_like("falcon", ffn_hidden_size=D_MLP, bias=True, parallel_attn=False),
    "falcon_grouped": _llama_like(
        "falcon", ffn_hidden_size=D_MLP, bias=True, new_decoder_architecture=True, num_kv_heads=KV_HEADS
    ),
    "falcon_grouped_one_norm": _llama_like(
        "falcon",
        ffn_hidden_size=D_MLP,
        bias=True,
        new_decoder_architecture=True,
        num_kv_heads=KV_HEADS,
        num_ln_in_parallel_attn=1,
    ),
    "gptj": _gpt2_like("gptj", rotary_dim=4),
    # Its fused rows come in four blocks, so with four heads a wrong order inside a block passes.
    "codegen": _gpt2_like("codegen", n_head=8, rotary_dim=2, n_ctx=POSITIONS),
    "gpt_neox": _llama_like("gpt_neox"),
    "gpt_neox_sequential": _llama_like("gpt_neox", use_parallel_residual=False),
    "gpt_neox_japanese": _llama_like("gpt_neox_japanese", intermediate_multiple_size=2),
    "phi": _llama_like("phi", rope_parameters=_rope(0.5)),
    "phi_qk_norm": _llama_like("phi", rope_parameters=_rope(0.5), qk_layernorm=True),
    "cohere": _llama_like("cohere", logit_scale=0.4),
    "cohere_qk_norm": _llama_like("cohere", logit_scale=0.4, use_qk_norm=True, attention_bias=True),
    "cohere2": _llama_like("cohere2", logit_scale=0.4, layer_types=MIXED, sliding_window=WINDOW),
    "stablelm_parallel": _llama_like(
        "stablelm", rope_parameters=_rope(0.5), use_parallel_residual=True, use_qkv_bias=True
    ),
    # Llama and what is called as it is
    "llama": _llama_like("llama"),
    "llama_biased": _llama_like("llama", attention_bias=True, mlp_bias=True),
    "llama_multi_query": _llama_like("llama", num_key_value_heads=1),
    "llama_tied": _llama_like("llama", tie_word_embeddings=True),
    "llama_scaled_rope": _llama_like("llama", rope_parameters=_LLAMA3_ROPE),
    "mistral": _llama_like("mistral", sliding_window=WINDOW),
    "ministral": _llama_like("ministral", layer_types=MIXED, sliding_window=WINDOW, head_dim=D_HEAD),
    "ministral3": _llama_like("ministral3", rope_parameters={**_YARN_ROPE, "llama_4_scaling_beta": 0.1}),
    "qwen2": _llama_like("qwen2", use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED, head_dim=D_HEAD),
    "qwen3": _llama_like(
        "qwen3", use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED, attention_bias=True
    ),
    "phi3": _llama_like(
        "phi3",
        sliding_window=WINDOW,
        rope_parameters=_rope(0.5),
        original_max_position_embeddings=POSITIONS,
        head_dim=D_HEAD,
    ),
    "starcoder2": _llama_like("starcoder2", sliding_window=WINDOW, head_dim=D_HEAD),
    "stablelm": _llama_like("stablelm", rope_parameters=_rope(0.5), use_qkv_bias=True),
    "stablelm_qk_norm": _llama_like("stablelm", rope_parameters=_rope(0.5), qk_layernorm=True),
    "persimmon": _llama_like("persimmon", rope_parameters=_rope(0.5)),
    "nemotron": _llama_like("nemotron", rope_parameters=_rope(0.5), attention_bias=True, mlp_bias=True),
    "arcee": _llama_like("arcee", attention_bias=True, mlp_bias=True),
    "apertus": _llama_like("apertus", rope_parameters=_LLAMA3_ROPE, head_dim=D_HEAD, attention_bias=True),
    "helium": _llama_like("helium", head_dim=D_MODEL // HEADS, attention_bias=True, mlp_bias=True),
    "ernie4_5": _llama_like("ernie4_5", use_bias=True),
    "hunyuan_v1_dense": _llama_like("hunyuan_v1_dense", attention_bias=True, head_dim=D_HEAD),
    "seed_oss": _llama_like("seed_oss", attention_out_bias=True, mlp_bias=True),
    "smollm3": _llama_like(
        "smollm3",
        no_rope_layers=[1, 0, 1],
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=MIXED,
        head_dim=D_HEAD,
        attention_bias=True,
        mlp_bias=True,
    ),
    "cwm": _llama_like(
        "cwm",
        layer_types=MIXED,
        sliding_window=WINDOW,
        rope_parameters=_LLAMA3_ROPE,
        bos_token_id=VOCAB - 1,
        eos_token_id=VOCAB - 1,
    ),
    "glm": _llama_like("glm", rope_parameters=_rope(0.5)),
    "jais2": _llama_like("jais2"),
    "bitnet": _llama_like("bitnet", attention_bias=True),
    "nanochat": _llama_like("nanochat", attention_bias=True),
    "granite": _llama_like("granite", **_MULTIPLIERS, attention_bias=True, mlp_bias=True, head_dim=D_HEAD),
    "hyperclovax": _llama_like("hyperclovax", **_MULTIPLIERS, attention_bias=True, mlp_bias=True),
    "hyperclovax_post_norm": _llama_like(
        "hyperclovax", **_MULTIPLIERS, attention_bias=True, mlp_bias=True, use_post_norm=True
    ),
    "granite_swa": _llama_like("granite_swa", **_MULTIPLIERS, layer_types=MIXED, sliding_window=WINDOW),
    "granitemoehybrid_dense": _llama_like(
        "granitemoehybrid",
        **_MULTIPLIERS,
        layer_types=["attention"] * LAYERS,
        num_local_experts=0,
        shared_intermediate_size=24,
        mamba_n_heads=HEADS,
        mamba_d_head=2 * D_MODEL // HEADS,
        attention_bias=True,
    ),
    "lfm2": _llama_like("lfm2", layer_types=[FULL] * LAYERS, full_attn_idxs=list(range(LAYERS))),
    "moshi": _llama_like("moshi", ffn_dim=2 * D_MLP, num_codebooks=2),
    "minimax_m3_vl_dense": _llama_like(
        "minimax_m3_vl_text",
        layer_types=[FULL] * LAYERS,
        mlp_layer_types=["dense"] * LAYERS,
        dense_intermediate_size=D_MLP,
        rotary_dim=4,
    ),
    # norms that are weightless, or after the branch, or both sides of it
    "olmo": _llama_like("olmo", attention_bias=True, head_dim=D_HEAD),
    "olmo_clipped": _llama_like("olmo", clip_qkv=0.8, head_dim=D_HEAD),
    "olmo2": _llama_like("olmo2", attention_bias=True, head_dim=D_HEAD),
    "olmo3": _llama_like(
        "olmo3",
        layer_types=MIXED,
        sliding_window=WINDOW,
        rope_parameters=_ROPE_PER_KIND,
        head_dim=D_HEAD,
    ),
    "exaone4": _llama_like(
        "exaone4",
        layer_types=MIXED,
        sliding_window=WINDOW,
        sliding_window_pattern=2,
        head_dim=D_HEAD,
    ),
    "glm4": _llama_like("glm4", rope_parameters=_rope(0.5)),
    "gemma": _llama_like("gemma", attention_bias=True),
    "gemma2": _llama_like(
        "gemma2",
        layer_types=MIXED,
        sliding_window=WINDOW,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
        attention_bias=True,
    ),
    "gemma3_text": _llama_like(
        "gemma3_text",
        layer_types=MIXED,
        sliding_window=WINDOW,
        rope_parameters=_ROPE_PER_KIND,
        query_pre_attn_scalar=20,
        final_logit_softcapping=5.0,
    ),
    "vaultgemma": _llama_like(
        "vaultgemma",
        layer_types=MIXED,
        sliding_window=WINDOW,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    "modernbert_decoder": _llama_like(
        "modernbert-decoder",
        layer_types=MIXED,
        local_attention=2 * WINDOW,
        pad_token_id=VOCAB - 1,
        bos_token_id=VOCAB - 1,
        eos_token_id=VOCAB - 1,
        cls_token_id=VOCAB - 1,
        sep_token_id=VOCAB - 1,
        norm_bias=True,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=_ROPE_PER_KIND,
    ),
    # mixtures of experts
    "mixtral": _llama_like(
        "mixtral", sliding_window=WINDOW, num_local_experts=5, num_experts_per_tok=2, head_dim=D_HEAD
    ),
    "qwen2_moe": _llama_like(
        "qwen2_moe",
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=24,
        mlp_only_layers=[1],
        use_sliding_window=True,
        sliding_window=WINDOW,
        layer_types=MIXED,
        head_dim=D_HEAD,
    ),
    "qwen3_moe": _llama_like(
        "qwen3_moe",
        num_local_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        mlp_only_layers=[0],
        norm_topk_prob=True,
        head_dim=D_HEAD,
        attention_bias=True,
    ),
    "olmoe": _llama_like("olmoe", num_experts=5, num_experts_per_tok=2, clip_qkv=1.2),
    "flex_olmo": _llama_like("flex_olmo", num_experts=5, num_experts_per_tok=2),
    "phimoe": _llama_like("phimoe", num_local_experts=5, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True),
    "granitemoe": _llama_like(
        "granitemoe", **_MULTIPLIERS, num_local_experts=5, num_experts_per_tok=2, attention_bias=True
    ),
    "granitemoeshared": _llama_like(
        "granitemoeshared",
        **_MULTIPLIERS,
        num_local_experts=5,
        num_experts_per_tok=2,
        shared_intermediate_size=24,
    ),
    "gpt_oss": _llama_like(
        "gpt_oss",
        layer_types=MIXED,
        sliding_window=WINDOW,
        num_local_experts=5,
        num_experts_per_tok=2,
        rope_parameters=_YARN_ROPE,
        swiglu_limit=1.0,
    ),
    "granitemoe_swa": _llama_like(
        "granitemoe_swa",
        **_MULTIPLIERS,
        num_local_experts=5,
        num_experts_per_tok=2,
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
    "cohere2_moe": _llama_like(
        "cohere2_moe",
        logit_scale=0.4,
        num_experts=5,
        num_experts_per_tok=2,
        num_shared_experts=1,
        layer_types=MIXED,
        mlp_layer_types=["dense", "sparse", "sparse"],
        prefix_dense_intermediate_size=20,
        sliding_window=WINDOW,
    ),
    "kolibri1": _llama_like(
        "kolibri1",
        num_local_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=24,
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
    "laguna": _llama_like(
        "laguna",
        num_attention_heads_per_layer=[HEADS, 2 * HEADS, HEADS],
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=24,
        moe_routed_scaling_factor=1.3,
        layer_types=MIXED,
        mlp_layer_types=["dense", "sparse", "sparse"],
        sliding_window=WINDOW,
        rope_parameters=_ROPE_PER_KIND,
    ),
    "mimo_v2_flash": _llama_like(
        "mimo_v2_flash",
        **_ROUTED_EXPERTS,
        v_head_dim=10,
        layer_types=MIXED,
        mlp_layer_types=["dense", "sparse", "sparse"],
        sliding_window=WINDOW,
        rope_parameters=_ROPE_PER_KIND,
        attention_value_scale=0.7,
    ),
    "flint": _llama_like(
        "flint",
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=24,
        mlp_only_layers=[0],
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
    "mellum": _llama_like(
        "mellum",
        num_local_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        layer_types=MIXED,
        mlp_layer_types=["sparse", "dense", "sparse"],
        sliding_window=WINDOW,
        rope_parameters=_ROPE_PER_KIND,
    ),
    "hy_v3": _llama_like(
        "hy_v3",
        num_experts=5,
        num_experts_per_tok=2,
        num_shared_experts=1,
        moe_intermediate_size=20,
        mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    "aria_text": _llama_like("aria_text", moe_num_experts=5, moe_topk=2, moe_num_shared_experts=1),
    "exaone_moe": _llama_like(
        "exaone_moe",
        num_experts=5,
        num_experts_per_tok=2,
        num_shared_experts=1,
        moe_intermediate_size=20,
        layer_types=MIXED,
        mlp_layer_types=["dense", "sparse", "sparse"],
        sliding_window=WINDOW,
    ),
    "solar_open": _llama_like("solar_open", **_ROUTED_EXPERTS, n_shared_experts=1),
    "llama4_text": _llama_like(
        "llama4_text",
        intermediate_size_mlp=28,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_layers=[0, 2],
        no_rope_layers=[1, 0, 1],
        layer_types=["chunked_attention", FULL, "chunked_attention"],
        attention_chunk_size=WINDOW,
        floor_scale=2,
        attn_scale=0.5,
        attention_bias=True,
    ),
    "ernie4_5_moe": _llama_like(
        "ernie4_5_moe",
        moe_num_experts=5,
        moe_k=2,
        moe_intermediate_size=20,
        moe_num_shared_experts=1,
        moe_layer_end_index=LAYERS - 1,
        use_bias=True,
        head_dim=D_HEAD,
    ),
    "glm4_moe": _llama_like(
        "glm4_moe",
        **_GROUPED_EXPERTS,
        use_qk_norm=True,
        attention_bias=True,
        rope_parameters=_rope(0.5),
        head_dim=D_HEAD,
    ),
    "dots1": _llama_like("dots1", **_GROUPED_EXPERTS, layer_types=MIXED, sliding_window=WINDOW, head_dim=D_HEAD),
    "hunyuan_v1_moe": _llama_like("hunyuan_v1_moe", num_experts=5, moe_topk=2, head_dim=D_HEAD),
    "minimax_m2": _llama_like("minimax_m2", num_local_experts=5, num_experts_per_tok=2),
    "afmoe": _llama_like(
        "afmoe",
        num_experts=5,
        num_experts_per_tok=2,
        num_shared_experts=1,
        num_dense_layers=1,
        moe_intermediate_size=20,
        route_scale=1.3,
        mup_enabled=True,
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
    "jetmoe": _llama_like("jetmoe", num_local_experts=5, num_experts_per_tok=2, kv_channels=D_HEAD),
    "dbrx": partial(
        _config,
        "dbrx",
        {},
        d_model=D_MODEL,
        n_heads=HEADS,
        n_layers=LAYERS,
        max_seq_len=POSITIONS,
        vocab_size=VOCAB,
        attn_config={"kv_n_heads": KV_HEADS, "clip_qkv": 1.2, "rope_theta": 10000.0},
        ffn_config={"ffn_hidden_size": D_MLP, "moe_num_experts": 5, "moe_top_k": 2, "hidden_size": D_MODEL},
    ),
    # compressed keys and values
    "deepseek_v2": _llama_like(
        "deepseek_v2",
        **_LATENT,
        **_GROUPED_EXPERTS,
        topk_method="group_limited_greedy",
        attention_bias=True,
    ),
    "deepseek_v2_full_query": _llama_like(
        "deepseek_v2",
        **{**_LATENT, "q_lora_rank": None},
        **{**_GROUPED_EXPERTS, "n_group": None, "topk_group": None},
        topk_method="greedy",
    ),
    "deepseek_v3": _llama_like(
        "deepseek_v3", **_LATENT, **_GROUPED_EXPERTS, attention_bias=True, rope_parameters=_YARN_ROPE
    ),
    "youtu": _llama_like("youtu", **_LATENT, attention_bias=True),
    "minicpm3": _llama_like("minicpm3", **_LATENT, scale_emb=1.7, scale_depth=1.1, dim_model_base=20),
    "axk1": _llama_like(
        "axk1",
        **_LATENT,
        **_ROUTED_EXPERTS,
        n_shared_experts=1,
        mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    "glm4_moe_lite": _llama_like(
        "glm4_moe_lite",
        **_LATENT,
        **_ROUTED_EXPERTS,
        n_shared_experts=1,
        mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    "deepseek_v32": _llama_like(
        "deepseek_v32",
        **_LATENT,
        **_GROUPED_EXPERTS,
        mlp_layer_types=["dense", "sparse", "sparse"],
        layer_types=["indexed_attention"] * LAYERS,
        index_topk=4,
        index_head_dim=8,
        index_n_heads=2,
    ),
    # two attention patterns a head, or a gate inside attention
    "diffllama": _llama_like("diffllama", attention_dropout=0.0, attention_bias=True),
    "doge": _llama_like("doge", keep_window_size=6, attention_bias=True, mlp_bias=True, head_dim=D_HEAD),
    "beam": _llama_like(
        "beam",
        num_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        moe_intermediate_size=20,
        layer_types=MIXED,
        sliding_window=WINDOW,
        mlp_layer_types=["dense", "sparse", "sparse"],
        rope_parameters={SLIDING: _rope(), FULL: None},
        final_logit_softcapping=4.0,
    ),
    # the BERT line: sums are normalized, and a nonlinear head reads the end
    **{
        name.replace("-", "_"): _bert_like(name) for name in "bert bert-generation ernie megatron-bert roc_bert".split()
    },
    "electra": _bert_like("electra", embedding_size=20),
    "electra_of_one_width": _bert_like("electra", embedding_size=D_MODEL),
    "rembert": _bert_like("rembert", input_embedding_size=20, output_embedding_size=28),
    "big_bird": _bert_like("big_bird", attention_type="original_full"),
    "roformer": _bert_like("roformer", embedding_size=D_MODEL),
    "roformer_rotated_values": _bert_like("roformer", embedding_size=20, rotary_value=True),
    **{
        name.replace("-", "_"): _bert_like(name, pad_token_id=1)
        for name in "camembert data2vec-text roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl".split()
    },
}
