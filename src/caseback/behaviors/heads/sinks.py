"""Heads that rest on the row's first token, and those that then write nothing (PRIMER 5.1.10).

    sink     mean a(i, first) over queries i >= 4, less its uniform share, in text
    no-op    (sink + what a learned sink takes) max(0, 1 - s_h / mean of s over the layer's other heads)
             s^2 = tr Cov(z W_O), how far what the head writes varies

A head may look at the first token and write something from there at every token. The proof is therefore that replacing
what the head writes by its mean changes the predictions less than the same of heads like it. The control is attention
to the token four back. A no-op head rests at least half of the time and varies less than a tenth of its neighbors.
"""

from __future__ import annotations

import numpy as np
import torch

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind, look_at
from caseback.errors import SiteAbsent
from caseback.model.anatomy.norms import at_least_float32


@kind(
    "attention sink",
    "head",
    entry="5.1.10",
    citation="Xiao et al. 2023, Gu et al. 2024",
    looks_at="attention to the row's first token in text, over uniform attention",
    control_is="attention four back in text, over uniform attention",
    threshold=0.5,
    needs={TEXT: ("attention_offsets",)},
    proof="plain text",
    sign=0,
)
def attention_sink(evidence: Evidence) -> Look:
    """Attention to the first token."""
    read = lambda name, **where: evidence.by_head(TEXT, "attention_offsets", name, **where)  # noqa: E731
    score = read("sink") - evidence.by_layer(TEXT, "attention_offsets", "uniform_sink")
    control = read("mean", bin=4) - evidence.by_layer(TEXT, "attention_offsets", "uniform", bin=4)
    return look_at(score, control, outside=read("outside"))


def quiet(evidence: Evidence) -> np.ndarray:
    """(head, fold): 1 less how far a head's write varies, over the mean of its layer's other heads; 0 at least.

    Raises
    ------
    SiteAbsent
        For a model of one head a layer, or whose heads' writes are no z W_O.
    """
    model = evidence.model
    if model.anatomy.head_site != "z":
        raise SiteAbsent(f"{model.anatomy.before_write} stands between z and what heads write: no write is z W_O")
    folds = []
    for fold in evidence.folds(TEXT, "head_moments"):
        parts = []
        for layer in range(model.n_layers):
            write = at_least_float32(model.weights.W_O[layer].detach())
            own = fold.sel(layer=layer)
            mean, second = (torch.as_tensor(own[name].values).to(write) for name in ("mean", "second_moment"))
            covariance = second - mean[:, :, None] * mean[:, None]
            size = torch.einsum("hio,hjo,hij->h", write, write, covariance).clamp_min(0).sqrt()
            if len(size) < 2:
                raise SiteAbsent("one head a layer: there is none beside it to compare what it writes with")
            others = (size.sum() - size) / (len(size) - 1)
            parts.append((1 - size / others.clamp_min(torch.finfo(size.dtype).tiny)).clamp_min(0))
        folds.append(torch.cat(parts).cpu().double().numpy())
    return np.stack(folds, 1)


@kind(
    "no-op",
    "head",
    entry="5.1.10",
    citation="Vig & Belinkov 2019, Bondarenko et al. 2023",
    looks_at="attention to the row's first token over uniform attention, times how much less the head's write varies "
    "than that of its layer's other heads",
    control_is="the same of attention four back",
    threshold=0.45,
    needs={TEXT: ("attention_offsets", "head_moments")},
    proof="plain text",
    sign=0,
)
def no_op(evidence: Evidence) -> Look:
    """Resting, and writing nothing."""
    size = quiet(evidence)
    read = lambda name, **where: evidence.by_head(TEXT, "attention_offsets", name, **where)  # noqa: E731
    rest = read("sink") + read("outside") - evidence.by_layer(TEXT, "attention_offsets", "uniform_sink")
    near = read("mean", bin=4) - evidence.by_layer(TEXT, "attention_offsets", "uniform", bin=4)
    return look_at(rest * size, near * size, rest=rest, quiet=size)
