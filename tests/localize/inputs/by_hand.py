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
