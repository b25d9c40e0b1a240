"""Baselines: what an embedding is compared with where "without this token" needs a value (PRIMER 3.1.3).

    zero    no embedding at all      mean    (1 / |V|) sum_v e_v      pad, eos, ...    a token that says nothing

e_v is what the embedding writes into the stream for token v, with the multipliers, projections and norms that belong to
it and without the position.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.anatomy.stream import expect_token_embeddings
from caseback.model.running.model import Model
from caseback.model.running.tokens import one_token

SPECIAL = ("pad", "eos", "bos", "unk", "mask")
BASELINES = ("zero", "mean", *SPECIAL)


def baseline_embedding(model: Model, baseline: Any, like: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """A baseline, as named or given, in the shape of the prompts' embeddings.

    Parameters
    ----------
    model
        The model.
    baseline
        ``"zero"``, ``"mean"``, a special token by name, a token's id, or a tensor that broadcasts to ``like``.
    like
        Embeddings whose shape, precision and device the baseline takes.

    Raises
    ------
    CasebackError
        For an unknown name, a special token that the tokenizer lacks, or a tensor that does not fit.
    """
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
    if isinstance(baseline, str) and baseline not in SPECIAL:
        raise CasebackError(f"baseline {baseline!r} is unknown. {did_you_mean(baseline, BASELINES)}")
    token = baseline if isinstance(baseline, int) else getattr(model.tokenizer, f"{baseline}_token_id", None)
    if token is None:
        whose = "this model has no tokenizer" if model.tokenizer is None else "its tokenizer has none"
        raise CasebackError(f"no baseline from a {baseline!r} token: {whose}; give a token's id, 'zero' or 'mean'")
    chosen = one_token(model.tokenizer, token, model.d_vocab, "baseline")
    return written(model, torch.tensor([chosen]))[0].to(like).expand_as(like)


def baseline_name(baseline: Any) -> str:
    """A baseline's name, for attributes."""
    if isinstance(baseline, str):
        return baseline
    return "tensor" if isinstance(baseline, Tensor) else f"token {baseline}"


def _mean(model: Model) -> Float[Tensor, " d_model"]:
    total = torch.zeros(model.d_model, dtype=torch.float64, device=model.device)
    for ids in torch.arange(model.d_vocab).split(limit("embedded_tokens")):
        total += written(model, ids).double().sum(0)
    return total / model.d_vocab


def vocabulary(model: Model) -> Float[Tensor, "vocab d_model"]:
    """What the embedding writes for every token: as large as the embedding matrix."""
    return torch.cat([written(model, ids) for ids in torch.arange(model.d_vocab).split(limit("embedded_tokens"))])


@torch.no_grad()
def written(model: Model, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """What the embedding writes into the stream for tokens by themselves."""
    anatomy = model.anatomy
    expect_token_embeddings(anatomy)
    x = anatomy.embed(ids.to(model.device)[None])
    for module in (anatomy.embed_project, anatomy.embed_norm):
        x = x if module is None else module(x)
    return x[0] * anatomy.embed_scale
