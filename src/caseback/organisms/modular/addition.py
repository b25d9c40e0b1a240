"""Modular addition as a task and as a model: ``a b =`` → (a + b) mod p, read at the last position.

One layer without norms, 4 heads, 128 wide, an MLP of 512, as in Nanda et al. 2023; attention has no biases. Numbers are
their own token ids, ``=`` is token p.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from caseback.errors import CasebackError
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM

PRIME = 53


def all_pairs(p: int) -> Int[Tensor, "pair 3"]:
    """Every prompt ``a b =`` as ids; the pair (a, b) is row a · p + b."""
    a = torch.arange(p).repeat_interleave(p)
    return torch.stack([a, torch.arange(p).repeat(p), torch.full_like(a, p)], -1)


def answers(p: int) -> Int[Tensor, " pair"]:
    """(a + b) mod p for every row of ``all_pairs``."""
    return all_pairs(p)[:, :2].sum(-1) % p


def split(p: int, share: float, seed: int) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
    """The rows of ``all_pairs`` to train on, and those to hold out.

    Raises
    ------
    CasebackError
        For a share that leaves one of the two empty.
    """
    count = int(share * p * p)
    if not 0 < count < p * p:
        raise CasebackError(f"a share of {share} of {p * p} pairs leaves nothing to train on or nothing to test on")
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values, order[count:].sort().values


def new_model(p: int, seed: int) -> CrystalForCausalLM:
    """The model before training: weights of variance 1 / fan-in, attention's biases fixed at zero."""
    config = CrystalConfig(
        vocab_size=p + 1,
        max_position_embeddings=3,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=512,
    )
    with torch.random.fork_rng(devices=[]):
        model = CrystalForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_("self_attn" not in name)
        else:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
    return model


def last_logits(model: CrystalForCausalLM, ids: Int[Tensor, "pair 3"]) -> Float[Tensor, "pair vocab"]:
    """The logits after ``=``, as the model gives them but several times faster.

    Without a norm, keys and values depend only on one token and its position: they are computed once for each of the
    p + 1 tokens and looked up for each pair. Queries and the MLP are computed at the last position alone.
    """
    layer: Any = model.model.layers[0]
    attention = layer.self_attn
    table = model.model.embed_tokens.weight[:, None] + model.model.embed_positions.weight
    split = (*table.shape[:2], -1, attention.head_dim)
    k, v = (project(table).view(split) for project in (attention.k_proj, attention.v_proj))
    last = table[ids[0, -1], -1]
    q = attention.q_proj(last).view(split[2:])
    places = torch.arange(3)
    pattern = ((q * k).sum(-1)[ids, places] * attention.scaling).softmax(1)
    z = torch.einsum("njh,njhd->nhd", pattern, v[ids, places]).flatten(1)
    x = last + attention.o_proj(z)
    return model.lm_head(x + layer.mlp(x))


def tokenizer(p: int) -> PreTrainedTokenizerFast:
    """A tokenizer of numbers and ``=``, separated by spaces: ``"3 4 ="`` is three tokens."""
    words = {str(n): n for n in range(p)} | {"=": p}
    backend = Tokenizer(models.WordLevel(words, unk_token="="))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="=", model_max_length=3)
