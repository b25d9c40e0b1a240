"""A graph's nodes in the frozen network that it was computed from, made anew from its prompt and the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import ResultError
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.influence import shares_of
from caseback.localize.circuits.attribution_graphs.rows import Readers, joined, readers_of
from caseback.localize.circuits.attribution_graphs.sources import (
    Replacement,
    listed_dictionaries,
    replacement,
    sites_of,
)
from caseback.localize.circuits.attribution_graphs.targets import logit_readers
from caseback.model.graph.names import parse_name
from caseback.model.running.model import Model


def replaced_of(model: Model, graph: xr.Dataset, dictionaries: Any) -> Replacement:
    """The frozen network that a graph was computed from.

    Raises
    ------
    ResultError
        Where the model or the dictionaries are not those of the graph.
    """
    shares_of(graph)
    if "id" not in graph.coords:
        raise ResultError("this graph does not hold its prompt's tokens: make it anew with attribution_graph")
    listed = listed_dictionaries(dictionaries)
    with torch.no_grad():
        network = Frozen(model, [graph["id"].values.tolist()], sites_of(model, listed))
        replaced = replacement(network, listed, graph.attrs.get("gate") or "half", int(graph.attrs["first"]))
    units = graph.isel(writer=np.isin(graph["kind"].values, ("feature", "neuron")))
    for name, activation in zip(units["writer"].values.tolist(), units["activation"].values.tolist(), strict=True):
        here = value_of(replaced, name)
        if here is None or abs(here - activation) > 1e-2 * max(1.0, abs(activation)):
            raise ResultError(
                f"{name} is {here} here and {activation} in the graph: give the model and dictionaries it was made with"
            )
    return replaced


def place_of(replaced: Replacement, name: str) -> tuple[int, int] | None:
    """The layer of a unit and its entry there; None where it is not active."""
    node = parse_name(name)
    sources = replaced.sources.get(node.layer)
    if sources is None or node.kind != sources.kind:
        return None
    at = ((sources.pos == int(node.pos)) & (sources.index == node.index)).nonzero()
    return (node.layer, int(at[0])) if len(at) else None


def value_of(replaced: Replacement, name: str) -> float | None:
    """How active a unit is."""
    place = place_of(replaced, name)
    return None if place is None else float(replaced.sources[place[0]].value[place[1]])


def errors_of(replaced: Replacement, names: Sequence[str]) -> Float[Tensor, "layer pos d_model"]:
    """What each MLP writes that none of the named units does."""
    chosen: dict[int, list[int]] = {layer: [] for layer in replaced.sources}
    for place in map(lambda name: place_of(replaced, name), names):
        if place is not None:
            chosen[place[0]].append(place[1])
    device = replaced.network.at("resid_pre", 0).device
    return replaced.errors({layer: torch.tensor(some, device=device).long() for layer, some in chosen.items()})


def readers_in(replaced: Replacement, graph: xr.Dataset) -> tuple[Tensor, Readers]:
    """A graph's readers, those of later layers first, and the places that they have in the graph."""
    device = replaced.network.at("resid_pre", 0).device
    parts = []
    for name in graph["reader"].values.tolist():
        if (place := place_of(replaced, name)) is not None:
            parts.append(readers_of(replaced, place[0], torch.tensor([place[1]], device=device)))
    targets = graph["reader_kind"].values == "logits"
    ids = torch.as_tensor(graph["reader_index"].values[targets], device=device)
    foil = graph.attrs.get("foil_id")
    every = joined([*parts, logit_readers(replaced.network, ids, None if foil is None else int(foil))])
    order = every.layer.argsort(descending=True, stable=True)
    return order, every[order]
