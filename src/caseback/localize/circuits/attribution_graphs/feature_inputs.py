"""What one feature reads on a prompt, one step back: of which feature, where, through which head (He et al. 2024).

    a_j + theta = sum_i a_i V_ij / s + sum_h sum_k A_qk^h sum_i a_i(k) V_ij^h / (s s_k) + errors + biases

V and V^h are ``virtual_weights``, directly and through one head: edges that no input changes. Times activations,
attention weights and the norms' denominators on the prompt they are the edges of this input (Dunefsky et al. 2024). A
dictionary of attention's output is a place to stop; where a layer has none, its heads are passed through, once: what
heads further below wrote at the place that a head looks at is theirs. What a neuron reads is split alike: a_j is then
what its activation function takes, and V_ij a product with its row of W_in, or of W_gate where it has one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import ArgumentError, CasebackError, OutOfRange, did_you_mean
from caseback.localize.circuits.attribution_graphs.frozen import Attention
from caseback.localize.circuits.attribution_graphs.stream_places import BRANCHES, NORMED, Features, depth_of
from caseback.localize.circuits.attribution_graphs.stream_writes import Parts, Writes, joined_parts, one_a_position
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import Name, head_name, parse_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    entry=("3.2.30",),
    citation="He et al. 2024, Dunefsky et al. 2024",
    cost="one forward, and heads x positions x active features x d_model for every layer that is passed through",
)
def feature_attribution(
    model: Model,
    tokens: PromptsLike,
    feature: str,
    dictionaries: Any,
    *,
    pos: int = -1,
    top: int | None = 100,
) -> xr.Dataset:
    """Split what one active feature, or a neuron, reads among the features, heads and embeddings that wrote it.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. One.
    feature
        Such as ``"L3F1042"``, of the transcoder or dictionary that writes layer 3's MLP output, or
        ``"L3F7:attn_out"``; or a neuron, ``"L3N17"``.
    dictionaries
        That of the feature, and those whose features are named as writers: transcoders, and dictionaries of the
        stream, of attention's output and of MLPs' outputs. An MLP without one is a node of its own. For a neuron there
        may be none, ``[]``.
    pos
        Where it is active; negative from the end.
    top
        How many entries are listed, of the largest weights. None: all that are not 0.

    Returns
    -------
    xarray.Dataset
        By ``entry``, the largest first: ``weight``, what of the feature's activation each writer brought; and
        ``virtual``, the part of it that no input changes: weight times denominators over activation and attention
        weight, NaN for what is no feature. Coordinates: ``writer``, such as ``"L1F3@2"``, ``"embed@2"``,
        ``"L2E@4"`` (an error), ``"MLP 2@4"``, ``"L0H1@4"`` and ``"bias"``; ``through``, the head, or ``""`` for
        what is read directly; ``kind``, ``layer``, ``pos_of`` and ``index`` of the writer; ``activation`` of a
        feature and ``pattern``, the head's attention weight, else NaN. Attributes: ``value``, the activation (of a
        neuron, what its activation function takes), which weights and ``rest``, what entries not listed sum to, make;
        ``gap``, by how much all miss it.

    Raises
    ------
    ArgumentError
        For a feature of none of the dictionaries, or one that is not active there; a neuron that the layer does not
        have, or one of experts; dictionaries of other places.
    OutOfRange
        For a position outside of the prompt, or ``top`` below 1.
    LoadError
        For dictionaries of another width or other layers.
    SiteAbsent
        For families whose values are not linear in the stream.

    Notes
    -----
    Entry 3.2.30. Attention patterns and norms' denominators are held. What a dictionary of MLPs' outputs reads is that
    output, one node: of MLPs only transcoders are taken apart. A dictionary of the stream stands for all that was
    written before it.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> of_mlp = lambda layer: Facts(site=f"mlp_norm.{layer}", target=f"mlp_out.{layer}")
    >>> transcoders = [TopK(model.d_model, 64, k=4, seed=layer, facts=of_mlp(layer)) for layer in (0, 2)]
    >>> attention = TopK(model.d_model, 64, k=4, facts=Facts(site="attn_out.1"))
    >>> active = model.run("Mary gave", read=["mlp_norm.2"])["mlp_norm", 2][0, -1:]
    >>> name = f"L2F{int(transcoders[1].encode(active).argmax())}"
    >>> found = feature_attribution(model, "Mary gave", name, [*transcoders, attention])
    >>> abs(float(found.weight.sum()) + found.attrs["rest"] - found.attrs["value"]) < 1e-3
    True
    >>> sorted(set(found.kind.values.tolist()))
    ['bias', 'embed', 'error', 'feature', 'head', 'mlp']
    """
    if top is not None and top < 1:
        raise OutOfRange(f"top={top}: expected 1 or more entries, or None for all")
    with torch.no_grad():
        neuron = _neuron(model, feature)
        writes = Writes(model, tokens, dictionaries, also=[] if neuron is None else [neuron.site])
        n = writes.network.n_positions
        at = pos + n if pos < 0 else pos
        if not 0 <= at < n:
            raise OutOfRange(f"pos={pos}: expected a position of a prompt of {n}")
        if neuron is None:
            place, group, index = _named(writes, feature)
            row, value, own = _reading(writes, group, index, feature, at)
            inputs, biases = _traced(writes, place, group.site, row, at)
        else:
            layer = neuron.site.layer
            state = writes.network.at(neuron.site.name, layer)[at]
            value, own = state[neuron.index], neuron.bias
            row = neuron.row.to(state)
            inputs, biases = _traced(writes, Site("mlp_out", layer), Site("mlp_norm", layer), row, at)
    return _labelled(model, feature, at, inputs, float(own + biases), float(value), top)


class _Inputs(NamedTuple):
    """Writers and what each brought by each way: a head, or none; with attention weights and denominators."""

    parts: Parts
    ways: list[str]
    weight: Float[Tensor, "way entry"]
    pattern: Float[Tensor, "way entry"]
    held: Float[Tensor, "way entry"]


class _Neuron(NamedTuple):
    """A neuron: where what its activation function takes is read, its number, its row of weights, and its bias."""

    site: Site
    index: int
    row: Float[Tensor, " d_model"]
    bias: Float[Tensor, ""]


def _neuron(model: Model, feature: str) -> _Neuron | None:
    """The neuron that is named; None where none is."""
    try:
        name = parse_name(feature)
    except CasebackError:
        return None
    if name.kind != "neuron" or name.pos:
        return None
    if not 0 <= name.layer < model.n_layers:
        raise ArgumentError(f"there is no {feature}: the model has {model.n_layers} layers")
    gated = model.anatomy.has(Site("mlp_gate", name.layer))
    site = Site("mlp_gate" if gated else "mlp_pre", name.layer)
    weights, slot = model.weights, "gate" if gated else "in"
    if not model.anatomy.has(site):
        raise ArgumentError(
            f"{feature}: neurons of layer {name.layer} are of experts, which have no input of their own"
        )
    matrix = at_least_float32(getattr(weights, f"W_{slot}")[name.layer].detach())
    bias = at_least_float32(getattr(weights, f"b_{slot}")[name.layer].detach())
    if not 0 <= name.index < matrix.shape[1]:
        raise ArgumentError(f"there is no {feature}: the layer has {matrix.shape[1]} neurons")
    return _Neuron(site, name.index, matrix[:, name.index], bias[name.index])


def _named(writes: Writes, feature: str) -> tuple[Site, Features, int]:
    """Where a feature writes, the features of that place, and its number in its dictionary."""
    try:
        name = parse_name(feature)
    except CasebackError:
        name = Name("")
    place = Site(name.site or "mlp_out", name.layer)
    places = [str(site) for site in writes.groups]
    if name.kind != "feature" or name.pos:
        raise ArgumentError(f"{feature!r} names no feature: expected such as 'L3F1042' or 'L3F7:attn_out'")
    if place not in writes.groups:
        raise ArgumentError(
            f"no dictionary given writes {place}, as {feature} does. {did_you_mean(str(place), places)}"
        )
    group = writes.groups[place]
    if not 0 <= name.index < group.count:
        raise ArgumentError(f"there is no {feature}: the dictionary has {group.count} features there")
    return place, group, group.first + name.index


def _reading(writes: Writes, group: Features, index: int, feature: str, at: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a feature reads of its site there, how active it is, and what of that is not read but added."""
    x, codes = writes.codes(group)
    value = codes[at, index]
    if value == 0:
        active = codes[at, group.first : group.first + group.count].nonzero()[:, 0].tolist()
        shown = ", ".join(map(str, active[:8])) or "none"
        raise ArgumentError(f"{feature} is not active at position {at}: those of its dictionary that are: {shown}")
    row = group.dictionary.reads(x, torch.tensor([at], device=x.device), torch.tensor([index], device=x.device))[0]
    state = writes.network.at(group.site.name, group.site.layer)[at]
    row = row.detach().to(state)
    return row, value, value.to(state) - row @ state


def _traced(writes: Writes, place: Site, site: Site, row: Tensor, at: int) -> tuple[list[_Inputs], Tensor]:
    """All that is read, way by way, and what of it is due to biases."""
    network, layer, one = writes.network, site.layer or 0, row.new_ones(())
    if site.name == "mlp_out":
        whole = one_a_position(Name("mlp", layer), network.at("mlp_out", layer))
        return [_direct(whole, row, at, one)], row.new_zeros(())
    if site.name == "attn_out":
        inputs, constant = _through(writes, layer, row, at, one)
        return [inputs], constant
    attention, held, constant = network.attention[layer], one, row.new_zeros(())
    norm, scale = network.mlp_norm(layer) if site.name == "mlp_norm" else (attention.norm, attention.scale)
    if site.name in NORMED and norm is not None:
        held, constant = scale[at, 0], constant if norm.beta is None else row @ norm.beta.to(row)
        row = norm.pull(row, scale[at])
    read = writes.at(depth_of(network.model, site), None if place.name in BRANCHES else place)
    passed = [write for write in read if write.site.name == "attn_out" and write.site not in writes.groups]
    stay = [write for write in read if write not in passed]
    inputs = [_direct(joined_parts([write.parts for write in stay]), row, at, held)]
    constant = constant + row @ torch.stack([write.constant[at] for write in stay]).sum(0)
    for write in passed:
        through, bias = _through(writes, write.site.layer or 0, row, at, held)
        inputs, constant = [*inputs, through], constant + bias
    return inputs, constant


def _direct(parts: Parts, row: Float[Tensor, " d_model"], at: int, held: Tensor) -> _Inputs:
    here = parts.pos == at
    parts = Parts(parts.names, *(column[here] for column in parts[1:]))
    weight = (parts.vectors @ row)[None]
    return _Inputs(parts, [""], weight, torch.full_like(weight, torch.nan), held.expand_as(weight))


def _through(
    writes: Writes, layer: int, row: Float[Tensor, " d_model"], at: int, held: Tensor
) -> tuple[_Inputs, Tensor]:
    """What is read of a layer's attention, by the head and by who wrote what the head looks at."""
    network, seen = writes.network, at + 1
    attention = network.attention[layer]
    post = attention.branch.scale
    post = held if post is None else held * post[0, at, 0]
    below = pulled_by_heads(attention, row, at)
    read = writes.at(2 * layer)
    parts = joined_parts([write.parts for write in read])
    parts = Parts(parts.names, *(column[parts.pos < seen] for column in parts[1:]))
    biases = row @ attention.push(torch.zeros_like(network.at("resid_pre", 0))[:, None], biases=True)[at, 0]
    biases = biases + (below * torch.stack([write.constant[:seen] for write in read]).sum(0)).sum()
    pattern = attention.pattern[:, at][:, parts.pos]
    ways = [head_name(layer, head) for head in range(len(pattern))]
    denominators = (post * attention.scale[parts.pos, 0]).expand_as(pattern)
    return _Inputs(parts, ways, by_position(parts, below), pattern, denominators), biases


def pulled_by_heads(attention: Attention, row: Float[Tensor, " d_model"], at: int) -> Float[Tensor, "head key d_model"]:
    """A direction read of what attention writes at a position, by the head and by the key whose stream it reads."""
    branch, seen = attention.branch, at + 1
    above = branch.pull(row) if branch.scale is None else branch.pull(row) / branch.scale[0, at]
    values = attention.pattern[:, at, :seen, None] * torch.einsum("hed,d->he", branch.weight, above)[:, None]
    if attention.slopes is not None:
        values = values * attention.slopes[:seen].transpose(0, 1)
    groups = attention.values
    below = torch.einsum("grke,gde->grkd", values.unflatten(0, (len(groups), -1)), groups).flatten(0, 1)
    return below if attention.norm is None else attention.norm.pull(below, attention.scale[:seen])


def by_position(parts: Parts, directions: Float[Tensor, "way pos d_model"]) -> Float[Tensor, "way entry"]:
    """Each entry read by each way's direction at its position, as one product that has room for the most of them."""
    n, order = directions.shape[1], parts.pos.argsort(stable=True)
    counts = torch.bincount(parts.pos, minlength=n)
    pos = parts.pos[order]
    slot = torch.arange(len(pos), device=pos.device) - (counts.cumsum(0) - counts)[pos]
    table = parts.vectors.new_zeros(n, int(counts.max()), parts.vectors.shape[1])
    table[pos, slot] = parts.vectors[order]
    products = table @ directions.permute(1, 2, 0)
    return products.new_empty(len(directions), len(pos)).index_copy_(1, order, products[pos, slot].T)


def _labelled(
    model: Model, feature: str, at: int, inputs: list[_Inputs], biases: float, value: float, top: int | None
) -> xr.Dataset:
    """The entries that are not 0, the largest first."""
    weight = np.concatenate([*(in_float64(one.weight).cpu().numpy().ravel() for one in inputs), [biases]])
    order = np.argsort(-np.abs(weight), kind="stable")
    order = order[weight[order] != 0]
    listed = order if top is None else order[:top]

    def column(name: str, last: float) -> np.ndarray:
        every = [in_float64(getattr(one, name)).cpu().numpy().ravel() for one in inputs]
        return np.concatenate([*every, [last]])[listed]

    def repeated(name: str) -> np.ndarray:
        every = [np.tile(in_float64(getattr(one.parts, name)).cpu().numpy(), len(one.ways)) for one in inputs]
        return np.concatenate([*every, [np.nan]])[listed]

    starts = np.cumsum([0, *(one.weight.numel() for one in inputs)])
    names, ways = [], []
    for entry in listed.tolist():
        which = int(np.searchsorted(starts, entry, side="right")) - 1
        if which == len(inputs):
            names.append(Name("bias"))
            ways.append("")
            continue
        parts, (way, part) = inputs[which].parts, divmod(entry - int(starts[which]), inputs[which].weight.shape[1])
        names.append(parts.names[int(parts.node[part])]._replace(pos=str(int(parts.pos[part]))))
        ways.append(inputs[which].ways[way])
    activation, pattern = repeated("value"), column("pattern", np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        virtual = weight[listed] * column("held", np.nan) / (activation * np.where(np.isnan(pattern), 1, pattern))
    coords: dict[str, Any] = {
        "writer": ("entry", [str(name) for name in names]),
        "through": ("entry", ways),
        "kind": ("entry", [name.kind for name in names]),
        "layer": ("entry", [name.layer for name in names]),
        "pos_of": ("entry", [int(name.pos) if name.pos else -1 for name in names]),
        "index": ("entry", [name.index for name in names]),
        "activation": ("entry", activation),
        "pattern": ("entry", pattern),
    }
    attrs = {
        **{"technique": feature_attribution, "model": model, "feature": feature, "pos": at, "value": value},
        **{"gap": abs(float(weight.sum()) - value), "rest": float(weight[order[len(listed) :]].sum())},
    }
    array = labelled(weight[listed], ["entry"], coords, name="weight", **attrs)
    return xr.Dataset({"weight": array, "virtual": ("entry", virtual)}, attrs=array.attrs)
