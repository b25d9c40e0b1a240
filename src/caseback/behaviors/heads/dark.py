"""Heads that write what the unembedding hardly reads: signals to later layers, dark to the logits (PRIMER 5.1.11).

    share = E|P z W_O|^2 / E|z W_O|^2,    P onto the k = d / 20 directions of the stream that W_U reads least
    score = (share - k / d) / (1 - k / d)

The filter is that of the stream's dark bands. The control are bands of as many random directions: one for the control,
twenty for the band.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.stream.outliers import darkest
from caseback.errors import SiteAbsent
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32

DRAWS = 20
QUANTILE = 0.95


def shares(evidence: Evidence, bands: Tensor) -> np.ndarray:
    """(band, head, fold): how much of what heads write is in each band of directions, (band, d_model, k)."""
    expect_in_weights(evidence.model.anatomy, "what heads write by their weights", {"head_out", "attn_out"})
    folds = []
    for fold in evidence.folds(TEXT, "head_moments"):
        layers = []
        for layer in range(evidence.model.n_layers):
            write = in_float64(at_least_float32(evidence.model.weights.W_O[layer].detach()))
            post = evidence.model.weights.attn_post_norm[layer]
            if post is not None:
                write = post.centre(write * post.gamma.to(write))
            moment = torch.as_tensor(fold["second_moment"].sel(layer=layer).values).to(write)
            of = torch.einsum("hed,bdk->bhek", write, bands.to(write))
            own = torch.einsum("bhek,hef,bhfk->bh", of, moment, of)
            whole = torch.einsum("hed,hef,hfd->h", write, moment, write)
            layers.append(own / whole.clamp_min(torch.finfo(whole.dtype).tiny))
        folds.append(torch.cat(layers, 1))
    return torch.stack(folds, -1).cpu().numpy()


@kind(
    "dark signal",
    "head",
    entry="5.1.11",
    citation="Cancedda 2024",
    looks_at="share of the head's write in the twentieth of directions that the unembedding reads least, over chance",
    control_is="the same of random directions",
    threshold=0.2,
    needs={TEXT: ("head_moments",)},
    works=("squares of the unembedding", "directions it hardly reads", "bands of what heads write"),
)
def dark_signal(evidence: Evidence) -> Look:
    """Writing what the unembedding hardly reads."""
    if evidence.model.anatomy.head_site != "z":
        raise SiteAbsent(
            f"{evidence.model.anatomy.before_write} stands between z and what heads write: no write is z W_O"
        )
    low = darkest(evidence)
    d, k = low.shape
    draw = torch.Generator().manual_seed(evidence.seed)
    chance, _ = torch.linalg.qr(torch.randn(DRAWS + 1, d, k, generator=draw, dtype=torch.float64))
    share = shares(evidence, torch.cat([low.cpu().double()[None], chance]))
    dims = d - evidence.folded.centred
    score = (share - k / dims) / max(1 - k / dims, 1e-9)
    band = float(np.quantile(score[2:, :, 0].max(1), QUANTILE))
    return Look(score[0, :, 0], score[0, :, -1], score[1, :, -1], band, {"share": share[0, :, -1]})
