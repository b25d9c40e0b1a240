"""What a head reads of a word and what it then writes, from weights: E_eff W_V W_O W_U on chosen tokens.

    e_t = stream after layer 0 of the token by itself,    row_h(t) = norm(e_t) W_OV^h W_U

The first MLP changes what an embedding says more than any later layer does, so circuits are read from behind it. The
token stands alone, so layer 0's attention looks at itself; heads of layer 0 read embeddings. Norms are folded into the
weights; a row's scale is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model

OV_SITES = frozenset({"attn_in", "attn_norm", "v_in", "v", "z", "head_out", "attn_out"})
"""Sites whose edits W_V W_O would have to hold."""


def early_words(model: Model, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """The stream after layer 0 of tokens that stand alone."""
    per_pass = limit("stream_tokens", model.device)
    parts = []
    for start in range(0, len(ids), per_pass):
        some = [[int(token)] for token in ids[start : start + per_pass]]
        parts.append(at_least_float32(model.run(some, read=[("resid_post", 0)])["resid_post", 0][:, -1].detach()))
    return torch.cat(parts)


def written_words(
    model: Model, ids: Sequence[int], targets: Sequence[int]
) -> Iterator[Float[Tensor, "head token target"]]:
    """What heads write to the logits of some tokens when they look at others, up to a scale for each of these.

    A layer's heads at a time: of all layers together it is gigabytes.

    Parameters
    ----------
    model
        The model.
    ids
        The tokens looked at.
    targets
        The tokens whose logits are read.

    Raises
    ------
    EditError
        For a model under edits between a head's input and the stream that are in no weight.
    """
    expect_in_weights(model.anatomy, "what heads write by their weights", OV_SITES)
    folded = model.weights.folded()
    words, out = early_words(model, ids), folded.W_U[:, list(targets)]
    embedded = folded.W_E[list(ids)]
    for layer in range(model.n_layers):
        norm, seen = folded.attn_norm[layer], words if layer else embedded
        read = seen if norm is None else norm(seen)
        ov = folded.OV.per_head[layer]
        yield (read @ at_least_float32(ov.left)) @ (at_least_float32(ov.right) @ out)


def most_written(model: Model, ids: Sequence[int], targets: Sequence[int]) -> Int[np.ndarray, "head token"]:
    """Which of the targets each head of the model raises most when it looks at a token."""
    return torch.cat([of_layer.argmax(-1) for of_layer in written_words(model, ids, targets)]).cpu().numpy()
