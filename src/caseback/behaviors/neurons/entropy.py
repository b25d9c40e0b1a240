"""Entropy neurons: they write where the unembedding hardly reads, and so change the final norm alone (PRIMER 5.2.18).

    rho = |V0^T w_out| / |w_out|,    V0 the k lowest left singular directions of the folded, centered W_U, k = d / 64
    chance rho0 = sqrt(k / d);    score = (rho - rho0) / (1 - rho0),  0 where |w_out| is below the layer's median

At d = 768 these are the 12 directions of GPT-2, and the threshold is three times chance. Where the unembedding has a
null space, k is at least its size. The direction that a centering norm takes away is none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows
from caseback.behaviors.neurons.unembedding import logit_variance, squares
from caseback.errors import SiteAbsent
from caseback.model.anatomy.coerce import in_float64

NULL = 1e-12
"""Squared singular values below this share of the largest are 0."""


def hardly_read(evidence: Evidence) -> Tensor:
    """(d_model, k): the directions of the stream that move the logits least.

    Raises
    ------
    SiteAbsent
        Where no norm stands before the unembedding, so that writing there does nothing.
    """
    folded = evidence.folded
    if folded.final_norm is None:
        raise SiteAbsent("no norm stands before the unembedding: what it hardly reads has no effect")
    product = squares(folded)
    d = len(product)
    if folded.centred:
        # no write has this direction; out of the way
        product = product + product.diagonal().max() * torch.ones_like(product)
    values, vectors = torch.linalg.eigh(product)
    null = int((values < NULL * values[-1]).sum())
    return vectors[:, : max(1, round(d / 64), null)]


@kind(
    "entropy",
    "neuron",
    entry="5.2.18",
    citation="Gurnee et al. 2024, Stolfo et al. 2024",
    looks_at="share of the output row in the directions that the unembedding reads least, between chance (0) and all",
    control_is="the layer's output rows in another basis",
    threshold=0.28,
    needs={},
    works=(
        "squares of the unembedding",
        "squares of its unit columns",
        "directions it hardly reads",
        "rows in those directions",
    ),
    proof="entropy",
    sign=1,
)
def entropy(evidence: Evidence) -> Look:
    """Writing into what the unembedding hardly reads."""
    low = hardly_read(evidence)
    chance = (low.shape[1] / (len(low) - evidence.folded.centred)) ** 0.5
    medians = {}

    def rho(rows: Tensor) -> Tensor:
        norm = in_float64(rows).norm(dim=1)
        return (in_float64(rows) @ low).norm(dim=1) / norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def score(layer: int, rows: Tensor) -> Tensor:
        norm = in_float64(rows.norm(dim=1))
        # the layer's own rows come first
        median = medians.setdefault(layer, norm.median())
        return torch.where(norm >= median, (rho(rows) - chance) / max(1 - chance, 1e-9), 0.0)

    def log_variance(_: int, rows: Tensor) -> Tensor:
        norm = in_float64(rows).square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        shares = logit_variance(evidence.folded, rows, unit_columns=True) / norm
        return shares.clamp_min(torch.finfo(torch.float64).tiny).log10()

    beside = {
        "rho": lambda _, rows: rho(rows),
        "norm": lambda _, rows: rows.norm(dim=1),
        "log10 logit variance": log_variance,
    }
    return look_at_rows(evidence, score, beside)
