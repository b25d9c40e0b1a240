"""Every node of a place patched by itself, which is what the other effects estimate."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.localize.circuits.features.places import Place
from caseback.localize.circuits.features.two_runs import TwoRuns
from caseback.model.running.edits import Add


def one_by_one(
    runs: TwoRuns, place: Place, change: Float[Tensor, "batch pos unit size"]
) -> Float[Tensor, "batch pos unit"]:
    """The metric where one node at one position takes its other value, less the metric as it is.

    Nodes that do not change have the effect 0 and are not run.
    """
    effects = torch.zeros(change.shape[:-1], dtype=torch.float64)
    address = {"layer": place.site.layer}
    for prompt in range(len(change)):
        pos, unit = (at.tolist() for at in change[prompt].any(-1).nonzero(as_tuple=True))
        if not pos:
            continue
        edits = []
        for p, u in zip(pos, unit, strict=True):
            value = change[prompt, p, u]
            at = {**address, "pos": p}
            if place.kind == "head":
                at["head"] = u
            elif place.kind in ("feature", "neuron"):
                at["unit"], value = u, value[0]
            edits.append(Add(place.site.name, value, **at))
        metric = runs.metric.of_rows(runs.tokens, [prompt])
        swept = runs.model.sweep(runs.tokens[prompt : prompt + 1], edits, metric)
        effects[prompt, pos, unit] = torch.as_tensor(swept.values[:, 0]).double() - float(swept.coords["clean"][0])
    return effects
