"""The decoder families: where each keeps its parts, written as differences from a neighbor.

A model type that is not here is tried with the spellings of ``GUESS`` and, like the declared ones, refused if the
identities of ``verify`` do not hold. A value may be a function of the config where variants differ. The families that
no declaration can describe are in ``unreadable``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from caseback.errors import AnatomyError, CasebackError
from caseback.model.anatomy.families_bert import FAMILIES as BERT_LINE
from caseback.model.anatomy.family import Family, Join, blocks, codegen, groups
from caseback.model.anatomy.unreadable import INDEXED, UNREADABLE
from caseback.plugins import loaded

NO_GATE = {"w_gate": None}
FUSED_GATE = {"w_gate": None, "w_in": None, "gate_up": "gate_up_proj", "act": "activation_fn"}
MOE = {"router": "gate", "experts": "experts"}
LATENT = "queries, keys and values come from a shared latent (MLA), so no head has projections of its own"


def _get(name: str, default: Any = None) -> Callable[..., Any]:
    return lambda config, *_: getattr(config, name, default)


def _gemma_scale(config: Any, embed: Any) -> float:
    return 1.0 if hasattr(embed, "embed_scale") else config.hidden_size**0.5


LLAMA = Family()
MIXTURE = LLAMA.but(**MOE)
GEMMA = LLAMA.but(embed_scale=_gemma_scale)
GEMMA2 = GEMMA.but(
    attn_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    logit_softcap=_get("final_logit_softcapping"),
)
OLMO2 = LLAMA.but(
    attn_norm=None,
    mlp_norm=None,
    attn_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
COHERE = LLAMA.but(parallel=lambda config: True, mlp_norm=None, logit_scale=_get("logit_scale", 1.0))
GRANITE = LLAMA.but(
    embed_scale=_get("embedding_multiplier", 1.0),
    residual_scale=_get("residual_multiplier", 1.0),
    logit_scale=lambda config: 1.0 / config.logits_scaling,
)
GRANITE_MOE = GRANITE.but(
    mlp="block_sparse_moe|shared_mlp",
    router="router",
    experts="experts",
    w_in=None,
    w_gate=None,
    gate_up="input_linear",
    w_out="output_linear",
    act="activation",
)
GLM = LLAMA.but(**FUSED_GATE)
MLP_4H = {"w_in": "dense_h_to_4h", "w_gate": None, "w_out": "dense_4h_to_h", "act": "act"}
DEEPSEEK = LLAMA.but(q="-", k="-", v="-", kv_heads=_get("num_attention_heads"), **MOE).but(
    lacks={name: LATENT for name in ("q_in", "k_in", "v_in")}
)

GPT2 = Family(
    layers="transformer.h",
    embed="transformer.wte",
    pos_embed="transformer.wpe",
    final_norm="transformer.ln_f",
    attn="attn",
    attn_norm="ln_1",
    mlp_norm="ln_2",
    qkv="c_attn",
    o="c_proj",
    w_in="c_fc",
    w_gate=None,
    w_out="c_proj",
    act="act",
)
GPTJ = GPT2.but(
    pos_embed=None,
    parallel=lambda config: True,
    mlp_norm=None,
    qkv=None,
    o="out_proj",
    w_in="fc_in",
    w_out="fc_out",
)
NEOX = Family(
    layers="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    unembed="lm_head|embed_out",
    attn="attention",
    parallel=_get("use_parallel_residual", True),
    qkv="query_key_value",
    layout=groups,
    o="dense",
    **MLP_4H,
)
BLOOM = Family(
    layers="transformer.h",
    embed="transformer.word_embeddings",
    embed_norm="transformer.word_embeddings_layernorm",
    final_norm="transformer.ln_f",
    attn="self_attention",
    qkv="query_key_value",
    layout=groups,
    o="dense",
    **{**MLP_4H, "act": "gelu_impl"},
    mlp_adds_residual=True,
)
OPT = Family(
    layers="model.decoder.layers",
    embed="model.decoder.embed_tokens",
    embed_project="model.decoder.project_in",
    pos_embed="model.decoder.embed_positions",
    final_norm="model.decoder.final_layer_norm",
    unembed_project="model.decoder.project_out",
    attn_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
    o="out_proj",
    w_in="fc1",
    w_gate=None,
    w_out="fc2",
    act="activation_fn",
    mlp_is_layer=True,
)
BIOGPT = OPT.but(
    layers="biogpt.layers",
    embed="biogpt.embed_tokens",
    embed_project=None,
    pos_embed="biogpt.embed_positions",
    final_norm="biogpt.layer_norm",
    unembed_project=None,
    unembed="output_projection",
)
PHI = LLAMA.but(
    parallel=lambda config: True,
    mlp_norm=None,
    final_norm="model.final_layernorm",
    o="dense",
    w_in="fc1",
    w_gate=None,
    w_out="fc2",
    act="activation_fn",
)


def _granite_moe_shared(config: Any) -> Family:
    """Experts with an MLP beside them, experts alone, or (Granite 4's dense models) the MLP alone."""
    both = bool(config.num_local_experts and config.shared_intermediate_size)
    return GRANITE_MOE.but(mlp_beside="shared_mlp" if both else None)


def _minimax_m3(config: Any) -> Family:
    if "minimax_m3_sparse" in config.layer_types:
        raise AnatomyError(f"this {config.model_type!r} cannot be read: in some layers {INDEXED}")
    return LLAMA.but(w_in=None, w_gate=None, gate_up="gate_up_proj", **MOE)


def _neox_japanese(layer: Any, _: int) -> tuple[Join, Join]:
    bias = layer.attention.dense_bias
    return (torch.add if bias is None else lambda stream, write: stream + (write + bias)), torch.add


def _bigcode(config: Any) -> Family:
    return GPT2 if config.multi_query else GPT2.but(layout=groups)


def _falcon_kv(config: Any) -> int:
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


def _falcon(config: Any) -> Family:
    fused = config.new_decoder_architecture
    return Family(
        layers="transformer.h",
        embed="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        attn="self_attention",
        attn_norm="ln_attn|input_layernorm",
        mlp_norm="ln_mlp|post_attention_layernorm",
        parallel=lambda config: bool(config.new_decoder_architecture or config.parallel_attn),
        qkv="query_key_value",
        layout=groups if fused or not config.multi_query else blocks,
        kv_heads=_falcon_kv,
        o="dense",
        mlp_overwritten=True,
        **MLP_4H,
    )


FAMILIES: dict[str, Family | Callable[[Any], Family]] = {
    **BERT_LINE,
    "afmoe": LLAMA.but(
        embed_scale=lambda config, embed: config.hidden_size**0.5 if config.mup_enabled else 1.0,
        attn_post_norm="post_attention_layernorm",
        mlp_norm="pre_mlp_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        before_o="a gate",
        router="router.gate",
        experts="experts",
    ),
    "apertus": LLAMA.but(attn_norm="attention_layernorm", mlp_norm="feedforward_layernorm", **NO_GATE),
    "arcee": LLAMA.but(**NO_GATE),
    "aria_text": LLAMA.but(router="router", experts="experts"),
    "axk1": DEEPSEEK,
    "biogpt": BIOGPT,
    "bitnet": LLAMA.but(before_o="a norm"),
    "bloom": BLOOM,
    "codegen": GPTJ.but(qkv="qkv_proj", layout=codegen),
    "cohere": COHERE,
    "cohere2": COHERE,
    "cohere2_moe": COHERE.but(**MOE),
    "crystal": LLAMA.but(pos_embed="model.embed_positions", w_gate=None),
    "cwm": LLAMA,
    "dbrx": Family(
        layers="transformer.blocks",
        embed="transformer.wte",
        final_norm="transformer.norm_f",
        attn="norm_attn_norm.attn",
        mlp="ffn",
        attn_norm="norm_attn_norm.norm_1",
        mlp_norm="norm_attn_norm.norm_2",
        qkv="Wqkv",
        kv_heads=lambda config: config.attn_config.kv_n_heads,
        o="out_proj",
        router="router",
        experts="experts",
    ),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "dots1": MIXTURE,
    "emu3_text_model": LLAMA,
    "ernie4_5": LLAMA,
    "ernie4_5_moe": MIXTURE,
    "exaone4": OLMO2,
    "exaone_moe": MIXTURE,
    "falcon": _falcon,
    "flex_olmo": OLMO2.but(**MOE),
    "flint": MIXTURE,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "glm": GLM,
    "glm4": GLM.but(attn_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"),
    "glm4_moe": MIXTURE,
    "glm4_moe_lite": DEEPSEEK,
    "gpt2": GPT2,
    "gpt_bigcode": _bigcode,
    "gpt_neo": GPT2.but(attn="attn.attention", qkv=None, o="out_proj"),
    "gpt_neox": NEOX,
    "gpt_neox_japanese": NEOX.but(
        layers="gpt_neox_japanese.layers",
        embed="gpt_neox_japanese.embed_in",
        final_norm="gpt_neox_japanese.final_layer_norm",
        parallel=lambda config: False,
        joins=_neox_japanese,
        unsummed="the bias of its last layer's attention is added outside of that attention, by no part's write",
    ),
    "gpt_oss": LLAMA.but(router="router", experts="experts"),
    "gptj": GPTJ,
    "granite": GRANITE,
    "granite_swa": GRANITE,
    "granitemoe": GRANITE_MOE,
    "granitemoe_swa": GRANITE_MOE,
    "granitemoehybrid": _granite_moe_shared,
    "granitemoeshared": _granite_moe_shared,
    "helium": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "hunyuan_v1_moe": MIXTURE,
    "hy_v3": MIXTURE,
    "hyperclovax": GRANITE.but(
        attn_post_norm="post_norm1", mlp_post_norm="post_norm2", logit_scale=_get("logits_scaling", 1.0)
    ),
    "internlm3": LLAMA,
    "iquestcoder": LLAMA,
    "jais2": LLAMA.but(**NO_GATE),
    "kolibri1": MIXTURE.but(attn_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"),
    "laguna": MIXTURE.but(before_o="a gate", heads=lambda config, attn: attn.num_heads),
    "lfm2": LLAMA.but(
        final_norm="model.embedding_norm",
        attn_norm="operator_norm",
        mlp="feed_forward",
        mlp_norm="ffn_norm",
        o="out_proj",
        w_in="w3",
        w_gate="w1",
        w_out="w2",
    ),
    "llama": LLAMA,
    "llama4_text": LLAMA.but(
        mlp="feed_forward",
        experts="experts",
        act="activation_fn",
        counts_from_cache=True,
        lacks=dict.fromkeys(("router", "expert"), "its router scales what experts read, not what they write"),
    ),
    "mellum": MIXTURE,
    "mimo_v2_flash": MIXTURE,
    "minicpm3": DEEPSEEK.but(
        residual_scale=lambda config: config.scale_depth / config.num_hidden_layers**0.5,
        logit_scale=lambda config: 1.0 / config.logits_scaling,
    ),
    "minimax_m2": MIXTURE,
    "minimax_m3_vl_text": _minimax_m3,
    "ministral": LLAMA,
    "ministral3": LLAMA,
    "mistral": LLAMA,
    "mixtral": MIXTURE,
    "moshi": LLAMA.but(
        q="q_proj.linear",
        k="k_proj.linear",
        v="v_proj.linear",
        o="o_proj.linear",
        w_in=None,
        w_gate=None,
        gate_up="fc1",
        w_out="fc2",
        act="activation_fn",
    ),
    "mpt": Family(
        layers="transformer.blocks",
        embed="transformer.wte",
        final_norm="transformer.norm_f",
        attn="attn",
        mlp="ffn",
        attn_norm="norm_1",
        mlp_norm="norm_2",
        qkv="Wqkv",
        o="out_proj",
        w_gate=None,
        act="act",
        mlp_adds_residual=True,
    ),
    "nanochat": LLAMA.but(
        embed_norm="model.norm",
        logit_softcap=_get("final_logit_softcapping"),
        w_in="fc1",
        w_gate=None,
        w_out="fc2",
        act="activation_fn",
    ),
    "nemotron": LLAMA.but(**NO_GATE),
    "olmo": LLAMA,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "olmoe": MIXTURE,
    "opt": OPT,
    "persimmon": LLAMA.but(
        final_norm="model.final_layernorm", qkv="query_key_value", layout=groups, o="dense", **MLP_4H
    ),
    "phi": PHI,
    "phi3": LLAMA.but(qkv="qkv_proj", **FUSED_GATE),
    "phimoe": LLAMA.but(router="router", experts="experts"),
    "qwen2": LLAMA,
    "qwen2_moe": MIXTURE,
    "qwen3": LLAMA,
    "qwen3_moe": MIXTURE,
    "seed_oss": LLAMA,
    "smollm3": LLAMA,
    "solar_open": MIXTURE,
    "stablelm": lambda config: LLAMA.but(
        parallel=_get("use_parallel_residual", False),
        mlp_norm=None if config.use_parallel_residual else "post_attention_layernorm",
    ),
    "starcoder2": LLAMA.but(w_in="c_fc", w_gate=None, w_out="c_proj", act="act"),
    "vaultgemma": GEMMA.but(mlp_norm="pre_feedforward_layernorm", logit_softcap=_get("final_logit_softcapping")),
    "xglm": OPT.but(
        layers="model.layers",
        embed="model.embed_tokens",
        embed_project=None,
        pos_embed="model.embed_positions",
        final_norm="model.layer_norm",
        unembed_project=None,
    ),
    "youtu": DEEPSEEK,
}

GUESS = Family(
    layers="model.layers|transformer.h|model.decoder.layers|transformer.layers|transformer.blocks|decoder.layers",
    embed="model.embed_tokens|transformer.wte|model.decoder.embed_tokens|transformer.word_embeddings|model.embedding",
    pos_embed="transformer.wpe",
    final_norm="model.norm|transformer.ln_f|model.final_layernorm|model.decoder.final_layer_norm|transformer.norm_f",
    unembed="lm_head|embed_out|output_projection|output",
    attn="self_attn|attn|attention|self_attention",
    mlp="mlp|feed_forward|block_sparse_moe|ffn",
    attn_norm="input_layernorm|ln_1|attention_layernorm|self_attn_layer_norm|norm1|attention_norm",
    mlp_norm="post_attention_layernorm|ln_2|feedforward_layernorm|norm2|ffn_norm|pre_mlp_layernorm",
    qkv="qkv_proj|query_key_value|c_attn|Wqkv",
    q="q_proj|q_lin|query",
    k="k_proj|k_lin|key",
    v="v_proj|v_lin|value",
    o="o_proj|dense|c_proj|out_proj|out_lin|wo",
    w_in="up_proj|c_fc|fc1|dense_h_to_4h|fc_in|w3",
    w_gate="gate_proj|w1",
    gate_up="gate_up_proj",
    w_out="down_proj|c_proj|fc2|dense_4h_to_h|fc_out|w2",
    act="act_fn",
    router="gate|router",
    experts="experts",
)


def _of_another_package(model_type: str) -> Family | Callable[[Any], Family] | None:
    try:
        return loaded("families", model_type, (Family, Callable))
    except CasebackError as error:
        raise AnatomyError(str(error)) from error


def family_of(config: Any) -> tuple[Family, bool]:
    """The declaration for a config, and whether it is declared (True) or guessed from spellings.

    Raises
    ------
    AnatomyError
        For a family that is known not to be readable, with the reason, and for one that another package declares and
        that cannot be loaded.
    """
    reason = UNREADABLE.get(str(config.model_type))
    if reason is not None:
        raise AnatomyError(f"models of type {config.model_type!r} cannot be read: {reason}")
    declared = FAMILIES.get(str(config.model_type)) or _of_another_package(str(config.model_type))
    if declared is None:
        return GUESS, False
    return (declared if isinstance(declared, Family) else declared(config)), True
