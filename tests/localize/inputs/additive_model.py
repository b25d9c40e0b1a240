"""A model whose logits are a sum over tokens: attention looks at all alike, and nothing else mixes or bends.

logits_n = b + sum_i (1 / n ...) e_i W,   so  f(x) - f(x without S) = sum_{i in S} (e_i - baseline) . gradient_i
"""

import torch
from torch import nn

import caseback as cb
import zoo


def additive():
    config = zoo.FAMILIES["gpt2"]()
    config.tie_word_embeddings = False
    hf = zoo.from_config(config, torch.float64)
    hf.transformer.ln_f = nn.Identity()
    width = config.n_embd
    for block in hf.transformer.h:
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        nn.init.zeros_(block.mlp.c_proj.weight)
        with torch.no_grad():
            # no queries and keys: every position attends to all before it alike
            block.attn.c_attn.weight[:, : 2 * width] = 0
            block.attn.c_attn.bias[: 2 * width] = 0
    return cb.load(hf)
