"""Neurons that switch heads' attention to the row's first token on or off (PRIMER 5.2.17).

    h = std(n) / sigma * w_out W_Q [ mean_p T_p k_first - mean_p mean_(D < p) T_D k ]^T / sqrt(d_head)
    score = max |h| over heads of later layers

by how much one deviation of the neuron moves the score of the first token against the other keys', as the stream stands
before that head (sigma, the root mean square that its norm divides by). k_first and k are mean keys before rotation, T
the rotations, over positions 4 to 127. The control is of the same writes in another basis.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows, neuron_layers
from caseback.errors import CasebackError, SiteAbsent
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.coerce import in_float64
from caseback.stream.tables.attention.rotations import turns_back

WIDTH, FROM = 128, 4
BEFORE_PATTERNS = frozenset({"attn_in", "attn_norm", "q_in", "q", "scores", "pattern"})
"""Sites whose edits W_Q would have to hold; keys are read from runs."""


def mean_turns(evidence: Evidence) -> list[tuple[Tensor, Tensor] | None]:
    """By layer the mean rotations to the first token and to all keys up to a query; None where nothing is turned."""
    width = min(WIDTH, evidence.model.context or WIDTH)
    if width <= FROM:
        raise CasebackError(f"a context of {width} tokens: expected more than {FROM}")
    means: dict[int, tuple[Tensor, Tensor]] = {}
    every: list[tuple[Tensor, Tensor] | None] = []
    for back in turns_back(evidence.model.anatomy, width):
        if back is not None and id(back) not in means:
            turn = torch.linalg.inv(in_float64(back))
            so_far = turn.cumsum(0)[:-1] / torch.arange(1, width, device=turn.device)[:, None, None]
            means[id(back)] = turn[FROM:].mean(0), so_far[FROM - 1 :].mean(0)
        every.append(None if back is None else means[id(back)])
    return every


def towards_first(evidence: Evidence) -> Float[Tensor, "fold layer head d_model"]:
    """What to add to the stream before a layer so that a head looks more at the first token, over sigma.

    Raises
    ------
    SiteAbsent
        Where queries or keys are normed, so that no matrix gives the scores.
    """
    model, folded = evidence.model, evidence.folded
    expect_in_weights(model.anatomy, "what queries read by their weights", BEFORE_PATTERNS)
    try:
        model.weights.qk(0, 0)
    except CasebackError as error:
        raise SiteAbsent(str(error)) from None
    turns = mean_turns(evidence)
    folds = []
    both = (evidence.folds(TEXT, name) for name in ("query_key_means", "stream_moments"))
    for keys, stream in zip(*both, strict=True):
        scale = np.sqrt(stream["later_second_moment"].mean("d_model").values)
        layers = []
        for layer in range(1, model.n_layers):
            w_q = in_float64(folded.W_Q[layer])
            first, others = (torch.as_tensor(keys[name].sel(layer=layer).values).to(w_q) for name in ("first", "k"))
            turn = turns[layer]
            gap = first - others if turn is None else first @ turn[0].mT - others @ turn[1].mT
            gap = gap.repeat_interleave(len(w_q) // len(gap), 0)
            before = list(stream["layer"].values).index(layer - 1)
            layers.append(torch.einsum("hde,he->hd", w_q, gap) / (scale[before] * w_q.shape[-1] ** 0.5))
        folds.append(torch.stack(layers))
    return torch.stack(folds)


@kind(
    "attention switch",
    "neuron",
    entry="5.2.17",
    citation="Gurnee et al. 2024",
    looks_at="change of a later head's score of the first token against other keys, for one deviation of the neuron",
    control_is="the same writes of the layer in another basis",
    threshold=0.1,
    needs={TEXT: ("query_key_means", "stream_moments", "neuron_groups")},
    works=("rows towards first tokens",),
    proof="attention to the first token",
    sign=1,
)
def attention_switch(evidence: Evidence) -> Look:
    """Moving attention to and from the first token."""
    neuron_layers(evidence)
    if evidence.model.n_layers < 2:
        raise SiteAbsent("one layer: no head comes after a neuron")
    directions = towards_first(evidence)
    n_heads = directions.shape[2]
    spread = np.sqrt(evidence.by_neuron(TEXT, "neuron_groups", "variance", group="any"))

    def moved(layer: int, rows: Tensor, fold: int = -1) -> Tensor:
        later = directions[fold, layer:].flatten(0, 1)
        return in_float64(rows) @ later.T if len(later) else in_float64(rows.new_zeros(len(rows), 1))

    def score(layer: int, rows: Tensor) -> Tensor:
        return torch.stack([moved(layer, rows, fold).abs().amax(1) for fold in (0, -1)], 1)

    def most(layer: int, rows: Tensor) -> Tensor:
        return moved(layer, rows).abs().argmax(1)

    beside = {
        "by": lambda layer, rows: moved(layer, rows).gather(1, most(layer, rows)[:, None])[:, 0],
        "layer": lambda layer, rows: (most(layer, rows) // n_heads + layer + 1).clamp_max(evidence.model.n_layers - 1),
        "head": lambda layer, rows: most(layer, rows) % n_heads,
    }
    return look_at_rows(evidence, score, beside, spread)
