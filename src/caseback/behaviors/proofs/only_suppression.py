"""Is copy suppression what a head does? Nothing else is left of it, and most of its effect remains (PRIMER 5.1.7).

    S(d)    of the tokens before the end, the twentieth that the stream before the layer predicts most
    left    mean of the head's write + sum over s in S(d) of a(d, s) min(0, v_s W_O . u_s) u_s,    u_s along W_U[:, t_s]
    share   1 - KL(as it is || left) / KL(as it is || mean)

With ``Experiment.still``: the effect is KL(mean) - KL(left), and half of KL(mean) at least proves it. The whole head is
replaced by its mean at the last token of prefixes of text. What the head does at the row's first token is in the mean.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.proofs.ends import kl_at_last, prefixes
from caseback.behaviors.proofs.experiment import Experiment, Unit, by_means
from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import repeat_heads
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.stream.tables.attention.predicted import RowLens

SHARE = 0.05
"""Of the tokens before the end, so many may be suppressed."""


def only_suppression(evidence: Evidence) -> Experiment:
    """The head as it is, against nothing of it but suppression."""
    if evidence.model.anatomy.head_site != "z":
        raise SiteAbsent(f"{evidence.model.anatomy.before_write} stands between z and what heads write")
    expect_in_weights(evidence.model.anatomy, "suppression by weights", {"z", "head_out", "attn_out"})
    tokens = prefixes(evidence)
    metric = kl_at_last(evidence, tokens)
    means = np.mean([fold["mean"].values for fold in evidence.folds(TEXT, "head_moments")], axis=0)
    held: dict[int, Tensor] = {}

    def left(unit: Unit) -> Edit:
        _, layer, head = unit
        if layer not in held:
            held[layer] = suppressed(evidence, tokens, layer)
        write = at_least_float32(evidence.model.weights.W_O[layer].detach())[head]
        mean = torch.as_tensor(means[layer, head]).to(write) @ write
        return Replace("head_out", layer=layer, head=head, pos=-1, value=mean + held[layer][:, head])

    return Experiment(
        "only suppression", tokens, metric, "nats", by_means(evidence, TEXT, pos=-1), still=(metric, left)
    )


def suppressed(evidence: Evidence, tokens: Tokens, layer: int) -> Float[Tensor, "prompt head d_model"]:
    """What each head of a layer writes against predicted tokens, at the last token of every prompt."""
    model, parts = evidence.model, []
    step = max(1, limit("stream_tokens", model.device) // tokens.shape[1])
    sites = [Site(name, layer) for name in ("pattern", "v", "resid_pre")]
    write = at_least_float32(model.weights.W_O[layer].detach())
    for first in range(0, len(tokens), step):
        some = tokens[first : first + step]
        run = execute(model.anatomy, some, read=sites, logits=False)
        ids, rows = run.tokens.ids, torch.arange(len(some), device=run.tokens.ids.device)
        last = run.tokens.column(-1)
        attention = at_least_float32(run[sites[0]].detach())[rows, :, last]
        towards = toward_words(evidence, layer, ids)
        v = repeat_heads(at_least_float32(run[sites[1]].detach()).transpose(1, 2), len(write))
        along = torch.einsum("bkd,hed->bhke", towards, write)
        down = torch.linalg.vecdot(v, along).clamp_max(0)
        stream = at_least_float32(run[sites[2]].detach())[rows, last][:, None]
        scores = RowLens(model, ids)(stream)[:, 0]
        chosen = most_predicted(scores, ids, run.tokens, last)
        parts.append(torch.einsum("bhk,bkd->bhd", attention * down * chosen[:, None], towards))
    return torch.cat(parts)


def toward_words(evidence: Evidence, layer: int, ids: Tensor) -> Float[Tensor, "row pos d_model"]:
    """The direction of a head's write that raises each token, of length 1."""
    weights = evidence.model.weights
    table = at_least_float32(weights.W_U.detach())
    rows = table[:, ids].permute(1, 2, 0) - table.mean(1)
    for norm in (weights.final_norm, weights.attn_post_norm[layer]):
        if norm is not None:
            rows = norm.centre(rows * norm.gamma.to(rows))
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def most_predicted(scores: Tensor, ids: Tensor, tokens: Tokens, last: Tensor) -> Tensor:
    """Which keys are the twentieth that is predicted most, one at least; never the row's first, nor padding."""
    places = torch.arange(ids.shape[1], device=ids.device)
    may = tokens.mask & (places != tokens.first[:, None]) & (ids != ids.gather(1, last[:, None]))
    ranks = scores.masked_fill(~may, -torch.inf).argsort(-1, descending=True).argsort(-1)
    return may & (ranks < (SHARE * may.sum(1, keepdim=True)).ceil())
