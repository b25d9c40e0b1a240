"""Every technique of context mixing in its common form, and the same maps the slow way."""

import torch

import caseback as cb
from caseback.localize import inputs
from caseback.localize.inputs.mixing.value_zeroing import cosine_distance

METRIC = cb.logit_diff(3, 5)
SCORES = (
    inputs.raw_attention,
    inputs.attention_norms,
    inputs.attention_rollout,
    inputs.attention_flow,
    inputs.gradient_rollout,
    inputs.globenc,
    inputs.alti,
    inputs.value_zeroing,
    inputs.decompx,
    inputs.alti_logit,
    inputs.mlp_mixing,
)
SHARES = (
    inputs.raw_attention,
    inputs.attention_norms,
    inputs.attention_rollout,
    inputs.globenc,
    inputs.alti,
    inputs.value_zeroing,
    inputs.mlp_mixing,
)
MAPS = (
    inputs.attention_maps,
    inputs.norm_maps,
    inputs.globenc_maps,
    inputs.alti_maps,
    inputs.value_zeroing_maps,
    inputs.decompx_maps,
    inputs.mlp_maps,
)
DENSE = (inputs.decompx, inputs.mlp_mixing, inputs.decompx_maps, inputs.mlp_maps)
"""Those that take MLPs apart, which a mixture of experts or latent attention does not allow."""
SINKS = ("gpt_oss",)
MIXTURES = ("mixtral", "gpt_oss", "deepseek_v3", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v2")


def without_value(model, prompt, layer, j, read):
    """A site of one layer when position j's value is zero there, by a whole edited run."""
    return model.run(prompt, edits=cb.Zero("v", layer=layer, pos=j), read=[(read, layer)])[read, layer]


def value_zeroing(model, prompt, layer):
    """Distances of the layer's outputs one edited run a position."""
    before = model.run(prompt, read=[("resid_post", layer)])["resid_post", layer]
    n = before.shape[1]
    rows = [cosine_distance(before[0], without_value(model, prompt, layer, j, "resid_post")[0]) for j in range(n)]
    return torch.stack(rows, -1)
