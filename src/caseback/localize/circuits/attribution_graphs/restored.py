"""A graph's nodes in the frozen network that it was computed from, made anew from its prompt and the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import ResultError
from caseback.localize.circuits.attribution_graphs.form import expect_graph
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.rows import Readers, joined, readers_of
from caseback.localize.circuits.attribution_graphs.sources import (
    Replacement,
    listed_dictionaries,
    replacement,
    sites_of,
)
from caseback.localize.circuits.attribution_graphs.targets import logit_readers
from caseback.model.graph.names import Name, parse_name
from caseback.model.running.model import Model


def replaced_of(model: Model, graph: xr.Dataset, dictionaries: Any) -> Replacement:
    """The frozen network that a graph was computed from.

    Raises
    ------
    ResultError
        Where the model or the dictionaries are not those of the graph.
    """
    expect_graph(graph)
    if "id" not in graph.coords or "first" not in graph.attrs:
        raise ResultError("this graph does not hold its prompt's tokens and first: make it anew with attribution_graph")
    listed = listed_dictionaries(dictionaries)
    with torch.no_grad():
        network = Frozen(model, [graph["id"].values.tolist()], sites_of(model, listed))
        replaced = replacement(network, listed, graph.attrs.get("gate") or "half", int(graph.attrs["first"]))
    kinds = np.isin(graph["kind"].values, ("feature", "neuron"))
    names, activation = graph["writer"].values[kinds].tolist(), graph["activation"].values[kinds]
    for layer, (at, entries) in places_of(replaced, names).items():
        here = replaced.sources[layer].value[entries].cpu().numpy()
        wrong = np.flatnonzero(np.abs(here - activation[at]) > 1e-2 * np.maximum(1, np.abs(activation[at])))
        if len(wrong):
            name, was = names[at[wrong[0]]], activation[at[wrong[0]]]
            raise _another(f"{name} is {here[wrong[0]]:.4g} here and {was:.4g} in the graph")
    return replaced


def _another(why: str) -> ResultError:
    return ResultError(f"{why}: give the model and the dictionaries that it was made with")


def places_of(
    replaced: Replacement, names: Sequence[str]
) -> dict[int, tuple[Int[np.ndarray, " unit"], Int[Tensor, " unit"]]]:
    """Where units stand: by layer, their numbers among the names, and their entries among the layer's active units.

    Raises
    ------
    ResultError
        For a unit that is not active there.
    """
    by_layer: dict[int, list[tuple[int, int, int]]] = {}
    for number, name in enumerate(names):
        node = parse_name(name)
        if node.kind not in ("feature", "neuron"):
            continue
        if (sources := replaced.sources.get(node.layer)) is None or sources.kind != node.kind:
            raise _another(f"{name} is no unit here")
        by_layer.setdefault(node.layer, []).append((number, int(node.pos), node.index))
    places = {}
    for layer, rows in by_layer.items():
        sources = replaced.sources[layer]
        number, pos, index = torch.tensor(rows).T
        width = int(max(index.max(), sources.index.max() if len(sources.index) else 0)) + 1
        keys, wanted = (sources.pos * width + sources.index).cpu(), pos * width + index
        entries = torch.searchsorted(keys, wanted).clamp_max(max(0, len(keys) - 1))
        missing = wanted[keys[entries] != wanted] if len(keys) else wanted
        if len(missing):
            at, unit = divmod(int(missing[0]), width)
            raise _another(f"{Name(sources.kind, layer, unit, str(at))} is not active here")
        places[layer] = number.numpy(), entries.to(sources.pos.device)
    return places


def errors_of(replaced: Replacement, names: Sequence[str]) -> Float[Tensor, "layer pos d_model"]:
    """What each MLP writes that none of the named units does."""
    places = places_of(replaced, names)
    nothing = {layer: sources.pos[:0] for layer, sources in replaced.sources.items()}
    return replaced.errors(nothing | {layer: entries for layer, (_, entries) in places.items()})


def readers_in(replaced: Replacement, graph: xr.Dataset) -> tuple[Tensor, Readers]:
    """A graph's readers, those of later layers first, and the places that they have in the graph."""
    device = replaced.network.at("resid_pre", 0).device
    places = places_of(replaced, graph["reader"].values.tolist())
    parts = [readers_of(replaced, layer, entries) for layer, (_, entries) in places.items()]
    numbers = [torch.as_tensor(at, device=device) for at, _ in places.values()]
    targets = graph["reader_kind"].values == "logits"
    ids = torch.as_tensor(graph["reader_index"].values[targets], device=device)
    foil = graph.attrs.get("foil_id")
    every = joined([*parts, logit_readers(replaced.network, ids, None if foil is None else int(foil))])
    number = torch.cat([*numbers, torch.as_tensor(np.flatnonzero(targets), device=device)])
    order = every.layer.argsort(descending=True, stable=True)
    return number[order], every[order]
