"""Baselines: what an embedding is compared with where "without this token" needs a value (PRIMER 3.1.3).

    zero    no embedding at all      mean    (1 / |V|) sum_v e_v      pad, eos, ...    a token that says nothing

e_v is what the embedding writes into the stream for token v, with the multipliers, projections and norms that belong to
it and without the position.

    mean_after_first    x_0 at the first position, the mean at all others

is for models whose positions enter through attention scores alone (rotary, ALiBi). There a baseline that is the same
at every position makes every position a copy of the first: all values that attention mixes are equal, the weights sum
to 1, so what it writes is that value whatever the scores are, and so on through the layers. The first position of a
trained model is its attention sink, of enormous norm (Xiao et al. 2023, Sun et al. 2024): a constant baseline is a
prompt of sinks alone. Somewhere between it and the prompt all positions but one must cease to be sinks, and there the
metric jumps. With the first token in place there is one sink at both ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.anatomy.sites import Site
from caseback.model.anatomy.stream import expect_token_embeddings
from caseback.model.prompts.per_token import aligned
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, one_token
from caseback.model.running.verify import under_edits

SPECIAL = ("pad", "eos", "bos", "unk", "mask")
BASELINES = ("zero", "mean", "mean_after_first", *SPECIAL)


def baseline_embedding(model: Model, baseline: Any, like: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """A baseline, as named or given, in the shape of the prompts' embeddings.

    Parameters
    ----------
    model
        The model.
    baseline
        ``"zero"``, ``"mean"``, ``"mean_after_first"``, a special token by name, a token's id, or a tensor that
        broadcasts to ``like``.
    like
        The prompts' embeddings, each from its first token; the baseline takes their shape, precision and device.

    Raises
    ------
    CasebackError
        For an unknown name, a special token that the tokenizer lacks, or a tensor that does not fit.
    """
    if isinstance(baseline, np.ndarray):
        baseline = torch.as_tensor(baseline)
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(like).expand_as(like)
        except RuntimeError:
            raise CasebackError(
                f"a baseline of shape {tuple(baseline.shape)} does not fit embeddings (batch, pos, d_model) of shape "
                f"{tuple(like.shape)}"
            ) from None
    if baseline == "zero":
        return torch.zeros_like(like)
    if baseline == "mean":
        return _mean(model).to(like).expand_as(like)
    if baseline == "mean_after_first":
        return torch.cat([like[:, :1], _mean(model).to(like).expand_as(like[:, 1:])], 1)
    if isinstance(baseline, str) and baseline not in SPECIAL:
        raise CasebackError(f"baseline {baseline!r} is unknown. {did_you_mean(baseline, BASELINES)}")
    token = baseline if isinstance(baseline, int) else getattr(model.tokenizer, f"{baseline}_token_id", None)
    if token is None:
        whose = "this model has no tokenizer" if model.tokenizer is None else "its tokenizer has none"
        raise CasebackError(f"no baseline from a {baseline!r} token: {whose}; give a token's id, 'zero' or 'mean'")
    chosen = one_token(model.tokenizer, token, model.d_vocab, "baseline")
    return written(model, torch.tensor([chosen]))[0].to(like).expand_as(like)


def usual_baseline(model: Model, tokens: Tokens) -> str:
    """The baseline of a path where none is chosen: one from which no position has to cease to be an attention sink.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")  # it has position embeddings, which tell the positions of a constant baseline apart
    >>> usual_baseline(model, model.tokens("the cat"))
    'mean'
    """
    constant_is_all_sinks = model.anatomy.pos_embed is None and int(tokens.lengths.min()) > 1
    return "mean_after_first" if constant_is_all_sinks else "mean"


def baseline_name(baseline: Any) -> str:
    """A baseline's name, for attributes."""
    if isinstance(baseline, str):
        return baseline
    return "tensor" if isinstance(baseline, Tensor) else f"token {baseline}"


def _mean(model: Model) -> Float[Tensor, " d_model"]:
    total = torch.zeros(model.d_model, dtype=torch.float64)
    for ids in torch.arange(model.d_vocab).split(limit("embedded_tokens")):
        total += written(model, ids).cpu().double().sum(0)
    return total / model.d_vocab


def prompt_embeddings(model: Model, tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
    """What the embedding writes for the prompts' own tokens, each prompt from column 0."""
    return aligned(written(model, tokens.ids.flatten()).view(*tokens.ids.shape, -1), tokens)


def vocabulary(model: Model) -> Float[Tensor, "vocab d_model"]:
    """What the embedding writes for every token: as large as the embedding matrix."""
    return torch.cat([written(model, ids) for ids in torch.arange(model.d_vocab).split(limit("embedded_tokens"))])


@torch.no_grad()
def written(model: Model, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """What the embedding writes into the stream for tokens by themselves, under the model's edits of it."""
    anatomy = model.anatomy
    expect_token_embeddings(anatomy)
    x = anatomy.embed(ids.to(model.device)[None])
    for module in (anatomy.embed_project, anatomy.embed_norm):
        x = x if module is None else module(x)
    return under_edits(anatomy, Site("embed"), x[0] * anatomy.embed_scale)
