"""Prediction and suppression neurons, by the shape of the logits that they write (PRIMER 5.2.11).

    v = w_out W_U, centered;    skew = E v^3 / (E v^2)^1.5,    kurtosis = E v^4 / (E v^2)^2,  3 for normal numbers
    prediction     kurtosis > 10 and skew > 0: few tokens rise
    suppression    kurtosis > 10 and skew < -1: few tokens fall

Where the MLP is gated its activations have either sign: the skew is then turned by the sign that two thirds of the
large activations have, those above the neuron's root mean square, and is 0 where they do not agree. The last third of
the layers is measured over the whole vocabulary, the others over a sample of it: with 4,096 tokens a kurtosis of 10 is
known to about a third.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import beside_controls, best
from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64

SAMPLE = 4096


def shapes(rows: Float[Tensor, "row d_model"], table: Float[Tensor, "d_model vocab"]) -> Float[Tensor, "row 2"]:
    """Skew and kurtosis over the vocabulary of what rows add to the logits, some of the vocabulary at a time.

    Examples
    --------
    >>> rows = torch.eye(2)
    >>> table = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 1.0, -1.0, 1.0]])
    >>> shapes(rows, table).round(decimals=2).tolist()
    [[1.5, 3.25], [0.0, 1.25]]
    """
    sums = in_float64(rows.new_zeros(4, len(rows)))
    # 64 columns at least, or the products are of vectors
    for some in table.split(max(64, limit("table_numbers", rows.device) // len(rows)), 1):
        v = rows @ some
        square = v * v
        of_powers = (v.sum(1), square.sum(1), torch.linalg.vecdot(square, v), torch.linalg.vecdot(square, square))
        sums += torch.stack(of_powers).to(sums)
    m1, m2, m3, m4 = sums / table.shape[1]
    spread = m2 - m1**2
    safe = torch.where(spread > torch.finfo(rows.dtype).eps * m2, spread, torch.inf)
    third, fourth = m3 - 3 * m1 * m2 + 2 * m1**3, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return torch.stack([third / safe**1.5, fourth / safe**2], 1)


def every_shape(evidence: Evidence) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """(unit, 2) skew and kurtosis of all neurons, then of two draws of control rows; held, as two kinds read it."""
    if __name__ not in evidence.computed:
        draw = torch.Generator().manual_seed(evidence.seed)
        table = evidence.folded.W_U
        n = table.shape[1]
        sample = table[:, torch.randperm(n, generator=draw)[:SAMPLE].sort().values.to(table.device)]

        def measure(layer: int, rows: Tensor) -> Tensor:
            return shapes(rows, table if 3 * layer >= 2 * evidence.model.n_layers else sample)

        evidence.computed[__name__] = beside_controls(evidence, measure, draw)
    return evidence.computed[__name__]


def mean_signs(evidence: Evidence) -> Float[np.ndarray, "unit fold"]:
    """E[sign n] of every neuron over its large activations, by fold; 1 where the MLP is not gated."""
    try:
        evidence.model.weights.W_gate[evidence.neuron_layers[0]]
    except SiteAbsent:
        return np.ones((len(evidence.neurons), 2))
    moments = [evidence.by_neuron(TEXT, "neuron_groups", name, group="any") for name in ("mean", "variance")]
    root = np.sqrt(moments[0] ** 2 + moments[1])
    signs = []
    for fold, table in enumerate(evidence.folds(TEXT, "neuron_histograms")):
        counts = table["count"].transpose("layer", "neuron", "bin").values.reshape(len(root), -1)
        middle = counts.shape[1] // 2
        large = table["lower"].values[middle + 1 :] >= root[:, [fold]]
        above, below = (counts[:, middle + 1 :] * large).sum(1), (counts[:, :middle][:, ::-1] * large).sum(1)
        signs.append((above - below) / np.maximum(above + below, 1))
    return np.stack(signs, 1)


def agreed_signs(evidence: Evidence) -> Float[np.ndarray, "unit fold"]:
    """The sign that two thirds of a neuron's large activations have, by fold; 0 where they do not agree."""
    sign = mean_signs(evidence)
    return np.where(np.abs(sign) > 1 / 3, np.sign(sign), 0)


def _look(rises: bool) -> Callable[[Evidence], Look]:
    def score(skew: np.ndarray, kurtosis: np.ndarray) -> np.ndarray:
        return np.where(skew > 0 if rises else skew < -1, kurtosis, 0.0)

    def look(evidence: Evidence) -> Look:
        own, first, second = every_shape(evidence)
        skew = own[:, :1] * agreed_signs(evidence)
        ranked_by, scored = (score(skew[:, fold], own[:, 1]) for fold in (0, -1))
        beside = {"skew": own[:, 0], "kurtosis": own[:, 1], "mean sign": mean_signs(evidence)[:, -1]}
        # rows in another basis have no activations: either sign is as good
        return Look(ranked_by, scored, score(*second.T), best([score(*part.T) for part in first]), beside)

    return look


for _name, _rises, _sign in (("prediction", True, 1), ("suppression", False, -1)):
    kind(
        _name,
        "neuron",
        entry="5.2.11",
        citation="Voita et al. 2023, Gurnee et al. 2024",
        looks_at=f"kurtosis of the logits that the neuron writes, where few tokens {'rise' if _rises else 'fall'}",
        control_is="an eighth as many of the layer's output rows in another basis",
        threshold=10,
        needs={TEXT: ("neuron_groups", "neuron_histograms")},
        works=("shapes of logits",),
        proof="written tokens",
        sign=_sign,
    )(_look(_rises))
