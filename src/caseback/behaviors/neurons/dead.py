"""Neurons that never fire (PRIMER 5.2.13).

    score = log10 of the layer's 999th thousandth of |a| over the neuron's largest activation, 9 at most

so 3 means that the neuron never comes to a thousandth of what its layer does. Of an MLP without a gate the largest
activation above 0 counts: whatever is below is not firing, though the write of a GELU is then not 0. A gated product
has two useful tails, and the larger counts. Silent on n tokens of text, a neuron fires on less than 3 / n of such text
(at 95 %); other text may wake it. The control is the layer's median neuron.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import best, by_layer, neuron_layers
from caseback.errors import SiteAbsent

CAP = 9.0


def size_999(evidence: Evidence) -> np.ndarray:
    """(unit, fold): the 999th thousandth of |a| over all tokens and neurons of the unit's layer, to half an octave."""
    sizes = []
    for table in evidence.folds(TEXT, "neuron_histograms"):
        own, lower = table["count"].transpose("layer", "neuron", "bin"), table["lower"].values
        counts = own.values.sum(1)
        middle = counts.shape[1] // 2
        # bins lie alike on either side of the one about 0
        folded = counts[:, middle:].copy()
        folded[:, 1:] += counts[:, :middle][:, ::-1]
        reached = folded.cumsum(1) >= 0.999 * folded.sum(1, keepdims=True)
        edges = np.maximum(lower[middle:], 0)
        at = np.maximum(reached.argmax(1), 1)
        sizes.append(np.repeat(edges[at], own.sizes["neuron"]))
    return np.stack(sizes, 1)


@kind(
    "dead",
    "neuron",
    entry="5.2.13",
    citation="Voita et al. 2023",
    looks_at="powers of ten between the layer's large activations and the neuron's largest",
    control_is="the layer's median neuron",
    threshold=3.0,
    needs={TEXT: ("neuron_moments", "neuron_histograms")},
    proof="plain text",
    sign=0,
)
def dead(evidence: Evidence) -> Look:
    """Never firing."""
    layers = neuron_layers(evidence)
    largest = evidence.by_neuron(TEXT, "neuron_moments", "mlp_post_max")
    try:
        evidence.model.weights.W_gate[layers[0]]
        largest = np.maximum(largest, -evidence.by_neuron(TEXT, "neuron_moments", "mlp_post_min"))
    except SiteAbsent:
        pass
    size = size_999(evidence)
    powers = CAP - np.log10(np.maximum(largest, 0) / size * 10**CAP + 1)
    layer = np.array([layer for layer, _ in evidence.neurons])
    control = np.empty_like(powers)
    for one in layers:
        control[layer == one] = np.median(powers[layer == one], axis=0)
    seen = np.full(len(powers), 3 / max(evidence.n_tokens, 1))
    return Look(
        powers[:, 0],
        powers[:, -1],
        control[:, -1],
        best(by_layer(evidence, control[:, 0])),
        {"fires on less than": seen},
    )
