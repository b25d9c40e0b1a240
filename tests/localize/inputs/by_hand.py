"""Input gradients without caseback: the Hugging Face model on ``inputs_embeds``, and models simple enough to know.

``linear`` predicts from the last token's embedding alone, by one matrix; ``rectified`` is a ReLU network without
biases, norms, positions or attention, so that scaling its input scales its output.
"""

import torch
from torch import nn

import caseback as cb
import zoo


def gradient(hf, embeds, value):
    """The gradient of a scalar function of the logits at given embeddings."""
    embeds = embeds.detach().requires_grad_()
    return torch.autograd.grad(value(hf(inputs_embeds=embeds).logits), embeds)[0]


def embeddings(hf, ids):
    return hf.get_input_embeddings()(torch.tensor(ids)).detach()


def _bare(activation):
    config = zoo.FAMILIES["gpt2"]()
    config.activation_function = activation
    config.tie_word_embeddings = False
    hf = zoo.from_config(config, torch.float64)
    hf.transformer.ln_f = nn.Identity()
    for block in hf.transformer.h:
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        for parameter in (*block.attn.c_proj.parameters(), block.mlp.c_fc.bias, block.mlp.c_proj.bias):
            nn.init.zeros_(parameter)
    nn.init.zeros_(hf.transformer.wpe.weight)
    return hf


def rectified():
    return cb.load(_bare("relu"))


def linear():
    hf = _bare("relu")
    for block in hf.transformer.h:
        nn.init.zeros_(block.mlp.c_proj.weight)
    return cb.load(hf)


def published_rules(hf, ids, value, *, through_attention):
    """Relevance of the embeddings of a Llama-shaped model by the rules as published, written out layer by layer.

    AttnLRP (``through_attention``): half of each product's gradient to either factor, f(x) / x for the gate's
    activation, root mean squares detached. CP-LRP: patterns and activated gates detached.
    """
    config, half = hf.config, (_halved if through_attention else lambda x: x)
    embeds = embeddings(hf, ids).requires_grad_()
    angles = hf.model.rotary_emb(embeds, torch.arange(embeds.shape[1])[None])
    size = config.num_attention_heads // config.num_key_value_heads
    unseen = torch.full((embeds.shape[1],) * 2, -torch.inf, dtype=embeds.dtype).triu(1)

    def normed(norm, x):
        return norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt().detach()

    x = embeds
    for layer in hf.model.layers:
        attn, mlp, read = layer.self_attn, layer.mlp, normed(layer.input_layernorm, x)
        q, k, v = (p(read).unflatten(-1, (-1, attn.head_dim)) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = (_rotated(y.transpose(1, 2), *angles) for y in (q, k))
        k, v = (y.repeat_interleave(size, 1) for y in (k, v.transpose(1, 2)))
        scores = half(q @ k.mT) * attn.head_dim**-0.5 + unseen
        pattern = scores.softmax(-1)
        z = half((pattern if through_attention else pattern.detach()) @ v)
        x = x + attn.o_proj(z.transpose(1, 2).flatten(2))
        read = normed(layer.post_attention_layernorm, x)
        gate, neuron = mlp.gate_proj(read), mlp.up_proj(read)
        slope = (nn.functional.silu(gate) / gate).detach()
        gate = gate * slope if through_attention else (gate * slope).detach()
        x = x + mlp.down_proj(half(gate * neuron))
    logits = hf.lm_head(normed(hf.model.norm, x))
    (g,) = torch.autograd.grad(value(logits), embeds)
    return logits.detach(), (embeds * g).detach()


def _halved(x):
    return x / 2 + (x / 2).detach()


def _rotated(x, cos, sin):
    one, two = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-two, one], -1) * sin[:, None]
