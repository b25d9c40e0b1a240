"""Neurons that write a massive activation by a single weight (PRIMER 5.1.12).

    score = max |a_u| max_d |w_out[u, d]| / the layer's 999th thousandth of |x|,    x the stream after the layer

the largest number that the neuron put into one dimension of the stream, against large numbers there. The weight is that
of the neuron and ``dimension``. The control writes in another basis, where no weight stands out. A model below some
hundred million parameters may have none.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows, neuron_layers


@kind(
    "super weight",
    "neuron",
    entry="5.1.12",
    citation="Sun et al. 2024, Yu et al. 2024",
    looks_at="the largest number written into one dimension, over the stream's 999th thousandth after the layer",
    control_is="the same writes of the layer in another basis",
    threshold=50,
    needs={TEXT: ("neuron_moments", "stream_moments")},
    works=("largest numbers of rows",),
    proof="plain text",
    sign=1,
)
def super_weight(evidence: Evidence) -> Look:
    """One weight that makes a massive activation."""
    layers = neuron_layers(evidence)
    ends = (evidence.by_neuron(TEXT, "neuron_moments", f"mlp_post_{end}") for end in ("max", "min"))
    largest = np.abs(np.stack(list(ends))).max(0)
    unit_layer = np.array([layer for layer, _ in evidence.neurons])
    sizes = np.stack([fold["size_999"].sel(layer=layers).values for fold in evidence.folds(TEXT, "stream_moments")], 1)
    over = largest / sizes[np.searchsorted(layers, unit_layer)]

    def score(_: int, rows: Tensor) -> Tensor:
        return rows.abs().amax(1)

    return look_at_rows(evidence, score, {"dimension": lambda _, rows: rows.abs().argmax(1)}, over)
