"""Neurons that take away, or strengthen, what they read (PRIMER 5.3.4).

    cos(w_in, w_out) < -.5    erasing: what made it fire leaves the stream        > .5    amplifying

Both as they stand in the stream: w_in with the norm's gain. Where an MLP is gated, w_in is what multiplies the gate:
act(x g) (x w_in) w_out takes the part along w_in away wherever the gate is open. The gate's own cosine stands beside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows
from caseback.errors import SiteAbsent


def _cosine(read: Tensor, rows: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(read.T.to(rows), rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _look(sign: int) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        folded = evidence.folded
        beside = {}
        try:
            folded.W_gate[0]
            beside["of the gate"] = lambda layer, rows: _cosine(folded.W_gate[layer], rows)
        except SiteAbsent:
            pass
        return look_at_rows(evidence, lambda layer, rows: sign * _cosine(folded.W_in[layer], rows), beside)

    return look


for _name, _sign in (("erasing", -1), ("amplifying", 1)):
    kind(
        _name,
        "neuron",
        entry="5.3.4",
        citation="Elhage et al. 2021, Gurnee et al. 2024",
        looks_at=f"{'minus ' if _sign < 0 else ''}the cosine between what the neuron reads and what it writes",
        control_is="the layer's output rows in another basis, with the same reading",
        threshold=0.5,
        needs={},
    )(_look(_sign))
