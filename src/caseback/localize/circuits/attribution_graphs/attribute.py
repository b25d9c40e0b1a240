"""Attribution graphs: what made the active features of a prompt, and they its prediction (B.4; Ameisen et al. 2025).

    weight_ts = a_s w_s . (r_t pulled down to s)           through frozen attention and norms, not through MLPs
    sum over s of weight_ts = what t reads: the activation of a feature, the logit of a token

MLPs are replaced by their active features or neurons, by what these leave (errors) and by biases, so the rows are exact
sums of what the model itself computed on this prompt. What stands still is a convention: patterns and denominators do
not answer for what they do (``qk_attribution`` looks at the patterns), and how active a feature would be elsewhere is
not asked. ``measured_effects`` compares what a graph says with what interventions do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.attribution_graphs.choosing import most_influential
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.rows import (
    Readers,
    Split,
    in_parts,
    joined,
    readers_of,
    split,
)
from caseback.localize.circuits.attribution_graphs.sources import (
    GATES,
    Replacement,
    listed_dictionaries,
    replacement,
    sites_of,
)
from caseback.localize.circuits.attribution_graphs.targets import logit_readers, targets_of
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.names import Name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    entry=("3.2.30", "B.4"),
    citation="Ameisen et al. 2025, Lindsey et al. 2025, Dunefsky et al. 2024",
    cost="one forward + a product through OV a layer for every reader",
)
def attribution_graph(
    model: Model,
    tokens: PromptsLike,
    dictionaries: Any = "neurons",
    *,
    targets: Any = None,
    foil: str | int | None = None,
    mass: float = 0.95,
    most_logits: int = 10,
    max_nodes: int = 2000,
    gate: str = "half",
    first: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Every active feature's inputs, split among all that wrote them, from the embeddings to the logits.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. One, whose last token is predicted from.
    dictionaries
        What MLPs are replaced by: transcoders, one a layer; a cross-layer transcoder; or ``"neurons"``. A layer without
        one is all error.
    targets
        The tokens whose logits are explained, each less the mean over the vocabulary. None: the likeliest ones, or
        with a foil the likeliest.
    foil
        A token; of each target the logit less the foil's is explained instead.
    mass, most_logits
        Of the likeliest tokens as many as hold this probability together, and at most so many.
    max_nodes
        Where more units are active, those of most influence are readers, and the others count as errors of theirs.
    gate
        How a neuron with a gate is split: ``"half"`` or ``"frozen"``.
    first
        The first position whose MLPs are replaced; before it their writes are given, as embeddings are. None: 1 where
        the prompt begins with a special token, whose states are unlike all others, else 0.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        ``weight`` (reader, writer): how much of what a reader is was written by each. Writers are embeddings, units,
        errors (before ``first`` whole MLPs) and ``bias``, in the order of computation, with ``kind``, ``layer``,
        ``pos_of`` and ``index``; readers are units and logits. ``activation`` (writer): how active a unit is, NaN for
        others. ``value`` (reader): what its row sums to. ``target_weight`` (reader): a target's probability, or 1 if it
        is the only one that was asked for, 0 for units; with a foil 1 shared among targets. ``probability`` (reader): a
        target's, NaN for units. The attribute ``gap`` is the most by which a row misses its value, ``dropped`` how many
        active units are no readers.

    Raises
    ------
    ArgumentError, LoadError
        For dictionaries that do not stand in the place of MLPs, or of another width.
    TargetError
        For targets that are no tokens of this model.
    EditError
        For a model under edits of values, of what heads write or of the stream.
    SiteAbsent
        For families whose values are not linear in the stream.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> graph = attribution_graph(model, "Mary gave the ball to", targets=" John", max_nodes=50)
    >>> float(abs(graph.weight.sum("writer") - graph.value).max()) < 1e-3
    True
    """
    if gate not in GATES:
        raise ArgumentError(f"gate {gate!r} is unknown. {did_you_mean(gate, GATES)}")
    if not 0 < mass <= 1 or most_logits < 1 or max_nodes < 0 or (first is not None and first < 0):
        raise OutOfRange(
            f"mass={mass}, most_logits={most_logits}, max_nodes={max_nodes}, first={first}: expected a share of "
            "probability, 1 or more logits, 0 or more nodes, and a position"
        )
    expect_tokens_out(model.anatomy, "an attribution graph")
    listed = listed_dictionaries(dictionaries)
    with torch.no_grad():
        network = Frozen(model, tokens, sites_of(model, listed))
        after = _first(network) if first is None else min(first, network.n_positions)
        replaced = replacement(network, listed, gate, after)
        ids, weights = targets_of(network, targets, foil, mass, most_logits)
        logits = logit_readers(network, ids, None if foil is None else model.token_id(foil))
        active = sum(len(sources.pos) for sources in replaced.sources.values())
        chosen = replaced.every_unit()
        if active > max_nodes:
            chosen = most_influential(replaced, logits, weights, max_nodes, progress=progress)
        readers = [readers_of(replaced, layer, entries) for layer, entries in sorted(chosen.items()) if len(entries)]
        every = joined([*readers, logits])
        errors = replaced.errors(chosen)
        rows = torch.empty(0)
        for some, part in progress_bar(list(in_parts(replaced, every)), "rows", unit="part", show=progress):
            one = split(replaced, part, errors)
            units = [one.units[layer][:, entries] for layer, entries in sorted(chosen.items())]
            rows = _placed(rows, len(every), some, _in_order(one, units, sorted(chosen)))
    return _labelled(replaced, chosen, every, rows, ids, foil, weights, active, gate)


def _first(network: Frozen) -> int:
    """1 where the prompt begins with a special token."""
    tokenizer = network.model.anatomy.tokenizer
    special = set(getattr(tokenizer, "all_special_ids", ()) or ())
    return int(network.n_positions > 1 and int(network.tokens.ids[0, 0]) in special)


def _in_order(one: Split, units: list[Tensor], layers: list[int]) -> Float[Tensor, "row writer"]:
    """A row's shares in the order of writers: embeddings, each layer's units and errors, biases."""
    by_layer = dict(zip(layers, units, strict=True))
    parts = [one.embed]
    for layer in range(one.errors.shape[1]):
        parts += [*([by_layer[layer]] if layer in by_layer else []), one.errors[:, layer]]
    return torch.cat([*parts, one.bias[:, None]], 1)


def _placed(rows: Tensor, count: int, some: Tensor, part: Tensor) -> Tensor:
    rows = part.new_zeros(count, part.shape[1], device="cpu") if not rows.numel() else rows
    rows[some.cpu()] = part.cpu()
    return rows


def _labelled(
    replaced: Replacement,
    chosen: dict[int, Tensor],
    readers: Readers,
    rows: Tensor,
    ids: Tensor,
    foil: Any,
    weights: Tensor,
    active: int,
    gate: str,
) -> xr.Dataset:
    network, model = replaced.network, replaced.network.model
    n, last = network.n_positions, str(network.n_positions - 1)
    names = [Name("embed", pos=str(p)) for p in range(n)]
    activation = [float("nan")] * n
    units: list[Name] = []
    for layer in range(network.n_layers):
        if layer in chosen:
            sources, entries = replaced.sources[layer], chosen[layer]
            places = zip(sources.pos[entries].tolist(), sources.index[entries].tolist(), strict=True)
            own = [Name(sources.kind, layer, index, str(p)) for p, index in places]
            units += own
            names += own
            activation += sources.value[entries].tolist()
        names += [Name("error" if p >= replaced.after else "mlp", layer, pos=str(p)) for p in range(n)]
        activation += [float("nan")] * n
    names.append(Name("bias"))
    activation.append(float("nan"))
    read = [*units, *(Name("logits", index=i, pos=last) for i in ids.tolist())]
    coords = {
        "writer": [str(name) for name in names],
        "reader": [str(name) for name in read],
        **_columns("writer", names),
        **{f"reader_{key}": value for key, value in _columns("reader", read).items()},
    }
    values = readers.value.cpu()
    gap = float((rows.sum(1) - values).abs().max())
    attrs: dict[str, Any] = {
        "technique": attribution_graph,
        "model": model,
        "prompt": model.tokenizer.decode(network.tokens.ids[0].tolist()) if model.tokenizer is not None else "",
        "gap": gap,
        "active": active,
        "dropped": active - len(units),
        "without_units": sum(layer not in replaced.sources for layer in range(network.n_layers)),
        "first": replaced.after,
        "gate": gate if any(s.kind == "neuron" for s in replaced.sources.values()) else None,
        "foil": None if foil is None else model.token_text(model.token_id(foil)),
        "foil_id": None if foil is None else model.token_id(foil),
    }
    weight = labelled(rows, ["reader", "writer"], coords, name="weight", **attrs)
    counts = np.concatenate([np.zeros(len(units)), weights.cpu().double().numpy()])
    dataset = xr.Dataset(
        {
            "weight": weight,
            "activation": ("writer", np.array(activation)),
            "value": ("reader", in_float64(values).numpy()),
            "target_weight": ("reader", counts),
        },
        attrs=weight.attrs,
    )
    texts = network.tokens.text[0]
    ids_of_prompt = network.tokens.ids[0].cpu().numpy()
    chances = at_least_float32(network.run.logits[0, -1]).softmax(-1)[ids].cpu().double().numpy()
    dataset["probability"] = "reader", np.concatenate([np.full(len(units), np.nan), chances])
    return dataset.assign_coords(
        pos=np.arange(n), token=("pos", np.array(texts, dtype=object)), id=("pos", ids_of_prompt)
    )


def _columns(dim: str, names: list[Name]) -> dict[str, Any]:
    """What nodes are, as coordinates beside their names."""
    return {
        "kind": (dim, [name.kind for name in names]),
        "layer": (dim, [name.layer for name in names]),
        "pos_of": (dim, [int(name.pos) if name.pos else -1 for name in names]),
        "index": (dim, [name.index for name in names]),
    }
