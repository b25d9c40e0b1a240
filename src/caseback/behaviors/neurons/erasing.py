"""Neurons that take away, or strengthen, what they read, beyond what their layer does (PRIMER 5.3.4).

    cos(w_in, w_out) - c;    below: erasing, what made it fire leaves the stream;    above: amplifying
    c = sum_u w_in . w_out / sqrt(sum_u |w_in|^2 sum_u |w_out|^2),    the cosine of the layer as a whole

Both as they stand in the stream: w_in with the norm's gain. Where an MLP is gated, w_in is what multiplies the gate:
act(x g) (x w_in) w_out takes the part along w_in away wherever the gate is open. The gate's own cosine stands beside.

The control are neurons of the same layer in another basis, g W_in with g W_out for vectors g of normal numbers: the map
that a layer is without its activation is the same in either, so what all of it erases is no neuron's doing. The band of
the control is the threshold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, draws, written
from caseback.errors import SiteAbsent
from caseback.model.algebra.under_edits import MLPS, expect_in_weights

Parts = list[Float[Tensor, " unit"]]


def _cosine(read: Float[Tensor, "unit d_model"], rows: Float[Tensor, "unit d_model"]) -> Float[Tensor, " unit"]:
    return torch.nn.functional.cosine_similarity(read.to(rows), rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def cosines(evidence: Evidence) -> tuple[Parts, Parts, Parts, Parts]:
    """By layer the neurons' cosines, those of two draws of control neurons, less the layer's; then the gates'."""
    if (key := (__name__, "cosines")) not in evidence.computed:
        expect_in_weights(evidence.model.anatomy, "what neurons take out by their weights", MLPS)
        draw = torch.Generator().manual_seed(evidence.seed)
        parts: tuple[Parts, Parts, Parts, Parts] = ([], [], [], [])
        for layer, rows in written(evidence):
            read = evidence.folded.W_in[layer].T.to(rows)
            whole = (read * rows).sum() / (read.norm() * rows.norm()).clamp_min(torch.finfo(rows.dtype).tiny)
            parts[0].append(_cosine(read, rows) - whole)
            for part, many in ((parts[1], draws(evidence)), (parts[2], 1)):
                mix = torch.randn(many * len(rows), len(rows), generator=draw, dtype=rows.dtype).to(rows.device)
                part.append(_cosine(mix @ read, mix @ rows) - whole)
            try:
                parts[3].append(_cosine(evidence.folded.W_gate[layer].T, rows))
            except SiteAbsent:
                continue
        evidence.computed[key] = parts
    return evidence.computed[key]


def _band(evidence: Evidence, sign: int) -> float:
    """What the best control neuron stays below."""
    first = [sign * part.cpu().double().numpy() for part in cosines(evidence)[1]]
    return best(first, power=2, draws=draws(evidence))


def _look(sign: int) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        parts = [torch.cat(part).cpu().double().numpy() for part in cosines(evidence) if part]
        own, second = sign * parts[0], sign * parts[2]
        beside = {"of the gate": parts[3]} if len(parts) > 3 and len(parts[3]) == len(own) else {}
        return Look(own, own, second, _band(evidence, sign), beside)

    return look


for _name, _sign in (("erasing", -1), ("amplifying", 1)):
    kind(
        _name,
        "neuron",
        entry="5.3.4",
        citation="Elhage et al. 2021, Gurnee et al. 2024",
        looks_at=f"{'minus ' if _sign < 0 else ''}the cosine between what the neuron reads and what it writes, less "
        "that of the layer as a whole",
        control_is="neurons of the layer in another basis, both what they read and what they write",
        threshold=0.0,
        needs={},
        works=("neurons in another basis",),
    )(_look(_sign))
