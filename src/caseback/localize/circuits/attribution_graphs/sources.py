"""What stands in the place of each MLP: active features of transcoders, or neurons, and what they leave.

    m_q = sum_i a_i w_i + rest_q + error_q        a_i = r_i . x_q + c_i

A cross-layer feature writes to its own layer and those after it. Neurons are exact: their error is 0. A neuron's
activation n = act(g) u, with u and g linear in the stream, is split as relevance propagation splits a product
(``"half"``: half of it is said to come through u, half through g, with the slope act(g) / g), or the gate is held
(``"frozen"``). One without a gate, act(u), has the slope act(u) / u.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, LoadError
from caseback.localize.circuits.attribution_graphs.frozen import Frozen, Rows
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.coerce import are_several
from caseback.model.anatomy.feature_reads import FeatureDictionary
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site, as_site
from caseback.model.backward.linearised import secant
from caseback.model.running.model import Model

Gate = Literal["half", "frozen"]
GATES: tuple[Gate, ...] = ("half", "frozen")
BEFORE_NORM = ("mlp_in", "resid_mid", "resid_pre")
"""The sites that are the stream which an MLP reads, with ``resid_pre`` where blocks are parallel."""


class Sources(Protocol):
    """The active units of one layer, entry by entry: at which position, which unit, how active."""

    kind: str
    layer: int
    pos: Int[Tensor, " entry"]
    index: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]

    def reached(self) -> range:
        """The layers that they write to."""
        ...

    def contract(self, above: Rows, layer: int) -> Float[Tensor, "row entry"]:
        """What each entry's write to a layer adds to directions that read the stream above it."""
        ...

    def reads(self, entries: Int[Tensor, " some"]) -> Float[Tensor, "some d_model"]:
        """The direction of the stream that each reads."""
        ...

    def each_written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "some d_model"]:
        """What each writes to a layer."""
        ...

    def written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "pos d_model"]:
        """What some of them write to a layer together."""
        ...


@dataclass
class Features:
    """The active features of a dictionary in one layer."""

    network: Frozen
    dictionary: FeatureDictionary
    layer: int
    states: Tensor
    pos: Int[Tensor, " entry"]
    index: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    offset: int
    normed: bool
    kind: str = "feature"

    def __post_init__(self) -> None:
        counts = torch.bincount(self.pos, minlength=self.network.n_positions)
        starts = counts.cumsum(0) - counts
        self._most = int(counts.max()) if len(self.pos) else 0
        self._slot = torch.arange(len(self.pos), device=self.pos.device) - starts[self.pos]
        writes = self.dictionary.writes(self.states, self.pos, self.index + self.offset)
        self._writes = writes.detach().to(self.value.dtype)

    def reached(self) -> range:
        return range(self.layer, self.layer + self._writes.shape[1])

    def contract(self, above: Rows, layer: int) -> Float[Tensor, "row entry"]:
        # positions have different numbers of active features: each has room for the most, so that one product does
        n, rows, d_model = above.shape
        own = self._writes[:, layer - self.layer] * self.value[:, None]
        table = own.new_zeros(n, self._most, d_model).index_put_((self.pos, self._slot), own)
        return (above @ table.mT)[self.pos, :, self._slot].T

    def reads(self, entries: Int[Tensor, " some"]) -> Float[Tensor, "some d_model"]:
        rows = self.dictionary.reads(self.states, self.pos[entries], self.index[entries] + self.offset)
        rows = rows.detach().to(self.value.dtype)
        norm, scale = self.network.mlp_norm(self.layer)
        return norm.pull(rows, scale[self.pos[entries]]) if self.normed and norm is not None else rows

    def each_written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "some d_model"]:
        return self._writes[entries, layer - self.layer] * self.value[entries, None]

    def written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "pos d_model"]:
        own = self.each_written(entries, layer)
        return own.new_zeros(self.network.n_positions, own.shape[1]).index_add_(0, self.pos[entries], own)


class Neurons:
    """The neurons of one layer, all that are not 0 on the prompt."""

    kind = "neuron"

    def __init__(self, network: Frozen, layer: int, gate: Gate, after: int):
        self.network, self.layer, self.gate = network, layer, gate
        post = network.at("mlp_post", layer)
        self._branch = mlp_branch(network.model.anatomy, layer, post)
        self.pos, self.index = post[after:].nonzero(as_tuple=True)
        self.pos = self.pos + after
        self.value = post[self.pos, self.index]
        self._after = after
        # where the value is never 0 all neurons are active, and there is nothing to pick out
        self._entry = None if len(self.pos) == post[after:].numel() else (self.pos - after) * post.shape[1] + self.index

    def reached(self) -> range:
        return range(self.layer, self.layer + 1)

    def contract(self, above: Rows, layer: int) -> Float[Tensor, "row entry"]:
        pulled = self._branch.pull(above)
        pulled = pulled if self._branch.scale is None else pulled / self._branch.scale[:, None]
        products = (pulled @ self._branch.weight.T)[self._after :].transpose(0, 1).flatten(1)
        return (products if self._entry is None else products[:, self._entry]).mul_(self.value)

    def reads(self, entries: Int[Tensor, " some"]) -> Float[Tensor, "some d_model"]:
        network, layer = self.network, self.layer
        pos, index, weights = self.pos[entries], self.index[entries], network.model.weights
        through = network.at("mlp_pre", layer)[pos, index]
        value, into = self.value[entries], at_least_float32(weights.W_in[layer].detach())[:, index].T
        slope = secant(value, through)
        rows = slope[:, None] * into
        if "mlp_gate" not in network.model.anatomy.lacks and self.gate == "half":
            by_gate = secant(value, network.at("mlp_gate", layer)[pos, index])
            gates = at_least_float32(weights.W_gate[layer].detach())[:, index].T
            rows = (rows + by_gate[:, None] * gates) / 2
        norm, scale = network.mlp_norm(layer)
        return rows if norm is None else norm.pull(rows, scale[pos])

    def written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "pos d_model"]:
        width = self._branch.weight.shape[0]
        codes = self.value.new_zeros(self.network.n_positions, width)
        codes[self.pos[entries], self.index[entries]] = self.value[entries]
        return self._branch.push(codes @ self._branch.weight)

    def each_written(self, entries: Int[Tensor, " some"], layer: int) -> Float[Tensor, "some d_model"]:
        rows, scale = self._branch.weight[self.index[entries]] * self.value[entries, None], self._branch.scale
        return replace(self._branch, scale=None if scale is None else scale[self.pos[entries]]).push(rows)


@dataclass(frozen=True)
class Replacement:
    """A network with sources in the place of MLPs.

    Attributes
    ----------
    network
        The frozen network.
    sources
        Of each layer that has some.
    rest
        What each layer's MLP writes that no unit does and that is no error, (pos, d_model): biases.
    skips
        Maps of what each MLP reads that are added, (d_model, d_model), and whether of the normed stream.
    after
        The first position at which MLPs are replaced: before it their writes are given, as embeddings are.
    """

    network: Frozen
    sources: Mapping[int, Sources]
    rest: Mapping[int, Float[Tensor, "pos d_model"]]
    skips: Mapping[int, tuple[Float[Tensor, "d_model d_model"], bool]]
    after: int

    @cached_property
    def constants(self) -> tuple[Float[Tensor, "layer pos d_model"], Float[Tensor, "layer pos d_model"]]:
        """What biases have added to the stream before each layer's attention and MLP, and after the last layer."""
        network = self.network
        stream = torch.zeros_like(network.at("resid_pre", 0))[:, None]
        before, at_mlp = [], []
        for layer in range(network.n_layers):
            before.append(stream[:, 0])
            attention = network.attention[layer].push(stream, biases=True)
            read = stream if network.parallel(layer) else stream + attention
            at_mlp.append(read[:, 0])
            stream = stream + attention
            if layer in self.rest:
                written = self.rest[layer].clone()
                written[: self.after] = 0
                stream = stream + written[:, None]
                skip = self.skipped(layer, read, biases=True)
                stream = stream if skip is None else stream + skip
        return torch.stack([*before, stream[:, 0]]), torch.stack([*at_mlp, stream[:, 0]])

    def skipped(self, layer: int, streams: Rows, *, biases: bool = False) -> Rows | None:
        """What a skip makes of streams; None where there is none."""
        if layer not in self.skips:
            return None
        matrix, normed = self.skips[layer]
        norm, scale = self.network.mlp_norm(layer)
        if normed and norm is not None:
            streams = norm.frozen(streams, scale[:, None])
            streams = streams if not biases or norm.beta is None else streams + norm.beta
        written = streams @ matrix
        written[: self.after] = 0
        return written

    def pull_skip(self, layer: int, above: Rows) -> Rows | None:
        """Directions read of what a skip writes, as directions of what the MLP reads."""
        if layer not in self.skips:
            return None
        matrix, normed = self.skips[layer]
        below = above @ matrix.T
        below[: self.after] = 0
        norm, scale = self.network.mlp_norm(layer)
        return norm.pull(below, scale[:, None]) if normed and norm is not None else below

    def every_unit(self) -> dict[int, Int[Tensor, " entry"]]:
        """By layer, the entries of all active units."""
        return {layer: torch.arange(len(s.pos), device=s.pos.device) for layer, s in self.sources.items()}

    def errors(self, chosen: Mapping[int, Int[Tensor, " some"]]) -> Float[Tensor, "layer pos d_model"]:
        """What each MLP writes that the chosen units, biases and skips do not."""
        network = self.network
        left = torch.stack([network.at("mlp_out", layer) for layer in range(network.n_layers)])
        for layer, rest in self.rest.items():
            left[layer, self.after :] -= rest[self.after :]
            skipped = self.skipped(layer, network.at("mlp_in", layer)[:, None], biases=True)
            if skipped is not None:
                left[layer] -= skipped[:, 0]
        for layer, sources in self.sources.items():
            for target in sources.reached():
                left[target] -= sources.written(chosen[layer], target)
        return left


def listed_dictionaries(dictionaries: Any) -> Any:
    """What stands in MLPs' places, as a list; or ``"neurons"``.

    Raises
    ------
    ArgumentError
        For what cannot.
    """
    if isinstance(dictionaries, str):
        if dictionaries != "neurons":
            raise ArgumentError(f"dictionaries={dictionaries!r}: expected transcoders or 'neurons'")
        return dictionaries
    listed = list(dictionaries) if are_several(dictionaries) else [dictionaries]
    lacking = [one for one in listed if not all(hasattr(one, name) for name in ("facts", "encode", "reads", "writes"))]
    if lacking or not listed:
        what = repr(lacking[0]) if lacking else "an empty list"
        raise ArgumentError(f"{what} cannot stand in the place of an MLP: expected transcoders or 'neurons'")
    return listed


def sites_of(model: Model, dictionaries: Sequence[FeatureDictionary] | str) -> tuple[Site, ...]:
    """What a run must read besides for these replacements."""
    if isinstance(dictionaries, str):
        gate = ("mlp_gate",) if "mlp_gate" not in model.anatomy.lacks else ()
        with_neurons = [i for i, p in enumerate(model.anatomy.layers) if p.w_out is not None]
        return tuple(Site(name, i) for name in ("mlp_pre", "mlp_post", *gate) for i in with_neurons)
    names = {as_site(one.facts.site).name for one in dictionaries if one.facts.site}
    return tuple(Site(name, layer) for name in names for layer in range(model.n_layers))


def replacement(
    network: Frozen, dictionaries: Sequence[FeatureDictionary] | Literal["neurons"], gate: Gate, after: int
) -> Replacement:
    """Put dictionaries or neurons in the places of a network's MLPs.

    Raises
    ------
    ArgumentError
        For dictionaries of other places, or several of one layer.
    LoadError
        For one of another width.
    """
    sources: dict[int, Sources] = {}
    rest: dict[int, Tensor] = {}
    skips: dict[int, tuple[Tensor, bool]] = {}
    if isinstance(dictionaries, str):
        for layer, p in enumerate(network.model.anatomy.layers):
            if p.w_out is None:
                continue
            sources[layer] = Neurons(network, layer, gate, after)
            branch = mlp_branch(network.model.anatomy, layer, network.at("mlp_post", layer))
            constant = branch.constant(network.at("mlp_out", layer))
            rest[layer] = torch.zeros_like(network.at("mlp_out", layer)) if constant is None else constant
        return Replacement(network, sources, rest, skips, after)
    for one in dictionaries:
        if not one.facts.site:
            raise ArgumentError(f"{one!r} does not say which site it reads: give it Facts(site=..., target=...)")
        one, across = one.to(network.model.device), getattr(one, "n_layers", 0)
        site, target = as_site(one.facts.site), as_site(one.facts.target or one.facts.site)
        _expect_place(network, one, site, target, across)
        layers = range(network.n_layers) if across else [site.layer or 0]
        states = [network.at(site.name, layer) for layer in layers]
        x = torch.stack(states, 1) if across else states[0]
        codes, written = one.encode(x).detach(), one.rest(x).detach()
        codes[:after] = 0
        width = one.n_features // len(layers)
        for number, layer in enumerate(layers):
            if layer in rest:
                raise ArgumentError(f"two dictionaries stand in the place of layer {layer}'s MLP: give one a layer")
            own = codes[:, number * width : (number + 1) * width]
            pos, index = own.nonzero(as_tuple=True)
            value = own[pos, index].to(x.dtype)
            normed = site.name not in BEFORE_NORM
            sources[layer] = Features(network, one, layer, x, pos, index, value, number * width, normed)
            rest[layer] = (written[:, number] if across else written).to(x.dtype)
            if one.W_skip is not None:
                skips[layer] = one.W_skip.detach().to(x.dtype), normed
    return Replacement(network, sources, rest, skips, after)


def _expect_place(network: Frozen, one: FeatureDictionary, site: Site, target: Site, across: int) -> None:
    parallel = site.layer is not None and 0 <= site.layer < network.n_layers and network.parallel(site.layer)
    allowed = ("mlp_in", "mlp_norm", "resid_pre" if parallel else "resid_mid")
    if target.name != "mlp_out" or site.name not in allowed or (not across and site.layer != target.layer):
        raise ArgumentError(
            f"{one!r} reads {site} and writes {target}: a graph's features stand in the place of an MLP, so they read "
            f"one of {', '.join(allowed)} and write mlp_out of the same layer (transcoders). Circuits of features of "
            "any site are found by feature_circuit"
        )
    if across and across != network.n_layers:
        raise LoadError(f"{one!r} is of {across} layers, the model has {network.n_layers}")
    if not across and (site.layer is None or not 0 <= site.layer < network.n_layers):
        raise LoadError(f"{one!r} reads {site}: the model has layers 0 to {network.n_layers - 1}")
    width = getattr(one, "d_in", network.model.d_model), getattr(one, "d_out", network.model.d_model)
    if width != (network.model.d_model,) * 2:
        raise LoadError(f"{one!r} is of width {width[0]}, the model of {network.model.d_model}")
