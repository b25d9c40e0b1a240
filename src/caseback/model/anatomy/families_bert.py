"""The BERT line as decoders: the sum of stream and write is normalized, and a nonlinear head reads the end.

    resid_mid = norm(resid_pre + attn_out)      resid_post = norm(resid_mid + mlp_out)
    logits = W_U norm(act(W resid_post[-1] + b))

So no write reaches the end by itself, and what splits a prediction among writes is refused; running, editing, sweeping,
gradients and attention are as in any other family. Three of them have their norms before the branches, as GPT-2 has,
and only the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import gelu

from caseback.errors import AnatomyError
from caseback.model.anatomy.family import Family, Join, normed

HEAD = "between its last layer and the unembedding stands a nonlinear head (dense, activation, norm)"
NORMED = "each addition to its stream is normalized, so what the parts write does not sum to the stream"
RESCALED = "its layers rescale the stream that they add to, so what the parts write does not sum to it"
WITHIN = {"pos_embed": "positions are added inside the embedding, before its norm: 'embed' holds both"}

Readout = Callable[[nn.Module, Tensor], Tensor]


def _after(layer: Any, _: int) -> tuple[Join, Join]:
    return normed(layer.attention.output.LayerNorm), normed(layer.output.LayerNorm)


def _at(path: str) -> Readout:
    return lambda hf, x: hf.get_submodule(path)(x)


def _lm_head(hf: Any, x: Tensor) -> Tensor:
    head = hf.lm_head
    return head.layer_norm(gelu(head.dense(x)))


def _gpt1(layer: Any, _: int) -> tuple[Join, Join]:
    return normed(layer.ln_1), normed(layer.ln_2)


def _rembert_head(hf: Any, x: Tensor) -> Tensor:
    head = hf.cls.predictions
    return head.LayerNorm(head.activation(head.dense(x)))


def _bert(root: str, unembed: str, readout: Readout | None, **changes: Any) -> Family:
    """A family of the line whose encoder is at ``root``."""
    return Family(
        layers=f"{root}.encoder.layer",
        embed=f"{root}.embeddings.word_embeddings",
        embed_whole=f"{root}.embeddings",
        final_norm=None,
        readout=readout,
        unembed=unembed,
        attn="attention.self",
        attn_norm=None,
        mlp_norm=None,
        q="query",
        k="key",
        v="value",
        o="attention.output.dense",
        w_in="intermediate.dense",
        w_gate=None,
        w_out="output.dense",
        act="intermediate.intermediate_act_fn",
        mlp_is_layer=True,
        joins=_after,
        unsummed=f"{NORMED}; {HEAD}" if readout is not None else NORMED,
        lacks=WITHIN,
    ).but(**changes)


def _roberta(root: str, **changes: Any) -> Family:
    return _bert(root, "lm_head.decoder", _lm_head, **changes)


BERT = _bert("bert", "cls.predictions.decoder", _at("cls.predictions.transform"))
PRE_NORM = {"joins": None, "unsummed": HEAD}
"""Norms before the branches: writes are added, and only the head stands between their sum and the logits."""


def _roformer(config: Any) -> Family:
    if config.rotary_value:
        raise AnatomyError(
            "this 'roformer' cannot be read: it rotates values by their position, so padding on the left would change "
            "every result"
        )
    embed_whole = "roformer.embeddings_project|roformer.embeddings"
    return _bert("roformer", "cls.predictions.decoder", _at("cls.predictions.transform"), embed_whole=embed_whole)


def _beam(_: Any, index: int) -> tuple[Join, Join]:
    from transformers.models.beam import modeling_beam  # only there where transformers has it

    add = modeling_beam.depth_scaled_residual_add
    first, second = 2 * (index + 1), 2 * (index + 1) + 1
    return (lambda stream, write: add(write, stream, first)), (lambda stream, write: add(write, stream, second))


FAMILIES: dict[str, Family | Callable[[Any], Family]] = {
    "beam": Family(
        attn_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
        before_o="a gate",
        logit_softcap=lambda config: config.final_logit_softcapping,
        router="gate",
        experts="experts",
        joins=_beam,
        unsummed=RESCALED,
    ),
    "bert": BERT,
    "bert-generation": _bert("bert", "lm_head.decoder", None),
    "big_bird": BERT,
    "camembert": _roberta("roberta"),
    "data2vec-text": _roberta("data2vec_text"),
    "electra": _bert(
        "electra",
        "generator_lm_head",
        _at("generator_predictions"),
        embed_whole="electra.embeddings_project|electra.embeddings",
    ),
    "ernie": _bert("ernie", "cls.predictions.decoder", _at("cls.predictions.transform")),
    "megatron-bert": BERT.but(**PRE_NORM, final_norm="bert.encoder.ln", attn_norm="attention.ln", mlp_norm="ln"),
    "modernbert-decoder": Family(
        embed="model.embeddings.tok_embeddings",
        embed_whole="model.embeddings",
        final_norm="model.final_norm",
        readout=_at("lm_head"),
        unembed="decoder",
        attn="attn",
        attn_norm="attn_norm",
        mlp_norm="mlp_norm",
        o="Wo",
        w_in=None,
        w_gate=None,
        gate_up="Wi",
        w_out="Wo",
        act="act",
        unsummed=HEAD,
    ),
    "openai-gpt": Family(
        layers="transformer.h",
        embed="transformer.tokens_embed",
        pos_embed="transformer.positions_embed",
        final_norm=None,
        attn="attn",
        attn_norm=None,
        mlp_norm=None,
        qkv="c_attn",
        o="c_proj",
        w_in="c_fc",
        w_gate=None,
        w_out="c_proj",
        act="act",
        joins=_gpt1,
        unsummed=NORMED,
    ),
    "rembert": _bert(
        "rembert",
        "cls.predictions.decoder",
        _rembert_head,
        embed_whole="rembert.encoder.embedding_hidden_mapping_in",
    ),
    "roberta": _roberta("roberta"),
    "roberta-prelayernorm": _roberta(
        "roberta_prelayernorm",
        **PRE_NORM,
        final_norm="roberta_prelayernorm.LayerNorm",
        attn_norm="attention.LayerNorm",
        mlp_norm="intermediate.LayerNorm",
    ),
    "roc_bert": _bert("roc_bert", "cls.predictions.decoder", _at("cls.predictions.transform")),
    "roformer": _roformer,
    "xlm-roberta": _roberta("roberta"),
    "xlm-roberta-xl": _roberta(
        "roberta",
        **PRE_NORM,
        final_norm="roberta.encoder.LayerNorm",
        attn_norm="attention.self_attn_layer_norm",
        mlp_norm="LayerNorm",
    ),
    "xmod": _roberta("roberta"),
}
