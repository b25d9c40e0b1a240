"""Models whose metric is known: linear in all embeddings, or one that copies; and prompts run one at a time."""

import itertools

import numpy as np
import torch
from torch import nn

import caseback as cb
import zoo


def _bare(activation: str = "relu"):
    """GPT-2 without norms, positions or MLPs."""
    config = zoo.FAMILIES["gpt2"]()
    config.activation_function = activation
    config.tie_word_embeddings = False
    hf = zoo.from_config(config, torch.float64)
    hf.transformer.ln_f = nn.Identity()
    for block in hf.transformer.h:
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        for parameter in (*block.attn.parameters(), *block.mlp.parameters()):
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
        nn.init.zeros_(block.mlp.c_proj.weight)
    nn.init.zeros_(hf.transformer.wpe.weight)
    return hf


def close(a, b, atol: float = 1e-11) -> bool:
    """Equal to an absolute error alone, NaN to NaN."""
    return np.allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def additive(layers: int | None = None):
    """Every head of the first layers attends evenly to all, so that logits are linear in all tokens' embeddings."""
    hf = _bare()
    for i, block in enumerate(hf.transformer.h):
        if layers is not None and i >= layers:
            nn.init.zeros_(block.attn.c_proj.weight)
        block.attn.c_attn.weight.data[:, : 2 * config_width(hf)] = 0
    return cb.load(hf)


def copier(token: int):
    """One head of the first layer looks, from anywhere, at ``token`` alone, and its value is written to the logits.

    A query is the same everywhere (a bias); a key is far above 0 at the token and far below at all others, by its own
    direction in the embedding, which is orthogonal to all others'. No other head or layer writes.
    """
    hf = _bare()
    d, at = config_width(hf), hf.transformer.wte.weight.data
    own, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    at -= (at @ own[0])[:, None] * own[0]
    at[token] += own[0] * 3
    for i, block in enumerate(hf.transformer.h):
        block.attn.c_attn.weight.data[:, : 2 * d] = 0
        if i:
            nn.init.zeros_(block.attn.c_proj.weight)
        else:
            block.attn.c_attn.bias.data[:d] = 10
            block.attn.c_attn.weight.data[:, d : 2 * d] = own[0][:, None] * 10
    return cb.load(hf)


def config_width(hf) -> int:
    return hf.config.hidden_size


def all_coalitions(n: int):
    """Every subset of n features, as a tuple of which are present."""
    return itertools.product((False, True), repeat=n)


def value_by_hand(model, ids, groups, present, baseline, metric):
    """One coalition's metric by one plain run with the absent groups' embeddings replaced."""
    edits = [
        cb.Replace("embed", baseline, pos=p)
        for group, there in zip(groups, present, strict=True)
        if not there
        for p in group
    ]
    return float(metric(model.run([ids], edits=edits))[0])


def shapley_by_hand(model, ids, groups, baseline, metric):
    """The mean marginal contribution over all orders, by plain runs."""
    n = len(groups)
    v = {s: value_by_hand(model, ids, groups, s, baseline, metric) for s in all_coalitions(n)}
    total = [0.0] * n
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        there = [False] * n
        for i in order:
            before = v[tuple(there)]
            there[i] = True
            total[i] += v[tuple(there)] - before
    return [t / len(orders) for t in total], v
