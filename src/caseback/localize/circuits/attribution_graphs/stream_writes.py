"""The stream of one prompt as a sum of what features of dictionaries, heads and MLPs wrote at each position.

    x[D] = embed + sum of writes                        without a dictionary of the stream below depth D
    x[D] = sum_i a_i w_i + b + e + sum of later writes  from the last one on, which stands for all before it
    attention's write = sum_h z_h W_O,  or the features of a dictionary of it and their error; an MLP's likewise

Every write stays at its own position: what heads moved there is theirs. An MLP without a dictionary is one node, and
so is what a transcoder's skip makes of what it reads. Depths are counted as in ``stream_places``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, LoadError
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.stream_places import BRANCHES, Features, depth_of, features_of
from caseback.model.anatomy.coerce import are_several
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import Name
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


class Parts(NamedTuple):
    """Addends of the stream, entry by entry.

    Attributes
    ----------
    names
        Nodes without a position.
    node, pos
        Of each entry, which of the names it is, and where.
    value
        How active a feature is; NaN for others.
    vectors
        What was written.
    """

    names: list[Name]
    node: Int[Tensor, " entry"]
    pos: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    vectors: Float[Tensor, "entry d_model"]


class Write(NamedTuple):
    """What stands at one site: its parts, and what of it is due to biases.

    Attributes
    ----------
    site, depth
        Where, and how many writes the stream holds there.
    parts
        Its parts.
    constant
        The rest.
    """

    site: Site
    depth: int
    parts: Parts
    constant: Float[Tensor, "pos d_model"]


class Writes:
    """A prompt's writes, split by dictionaries where there are some.

    Parameters
    ----------
    model
        The model.
    tokens
        One prompt.
    dictionaries
        Transcoders and dictionaries of the stream, of attention's output and of MLPs' outputs.
    also
        Further sites that its run reads.

    Raises
    ------
    ArgumentError
        For dictionaries of other places, or two that write at the same.
    LoadError
        For one of another width or other layers.
    """

    def __init__(self, model: Model, tokens: PromptsLike, dictionaries: Any, also: Sequence[Site] = ()):
        listed = list(dictionaries) if are_several(dictionaries) else [dictionaries]
        self.groups: dict[Site, Features] = {}
        for one in listed:
            self.groups |= _beside(model, self.groups, one)
        read = {site for group in self.groups.values() for site in (group.site, group.target)} | {*also}
        read |= {Site("attn_out", layer) for layer in range(model.n_layers)}
        self.network = Frozen(model, tokens, tuple(read))

    def at(self, depth: int, without: Site | None = None) -> list[Write]:
        """The writes that the stream of this depth is the sum of; ``without`` the features of one place."""
        below = [write for write in self.written if write.depth <= depth and write.site != without]
        start = max((write for write in below if write.site.name not in BRANCHES), key=lambda write: write.depth)
        return [start, *(write for write in below if write.depth > start.depth)]

    def codes(self, group: Features) -> tuple[Tensor, Tensor]:
        """What a dictionary reads, (pos, d_in) or (pos, layer, d_in), and how active its features are."""
        return self._codes[id(group.dictionary)]

    @cached_property
    def _codes(self) -> dict[int, tuple[Tensor, Tensor]]:
        codes: dict[int, tuple[Tensor, Tensor]] = {}
        for group in self.groups.values():
            one = group.dictionary
            if id(one) not in codes:
                own = [self._state(each.site) for each in self.groups.values() if each.dictionary is one]
                x = torch.stack(own, 1) if getattr(one, "n_layers", 0) else own[0]
                codes[id(one)] = x, one.encode(x).detach()
        return codes

    @cached_property
    def written(self) -> list[Write]:
        """Every write, by depth."""
        sites = [Site(name, layer) for layer in range(self.network.n_layers) for name in BRANCHES]
        writes = [self._whole(Site("resid_pre", 0), Name("embed"), 0)]
        writes += [self._by_model(site) for site in sites if site not in self.groups]
        return sorted([*writes, *map(self._by_features, self.groups)], key=lambda write: write.depth)

    def _state(self, site: Site) -> Float[Tensor, "pos d_model"]:
        return self.network.at(site.name, site.layer)

    def _whole(self, site: Site, name: Name, depth: int) -> Write:
        state = self._state(site)
        return Write(site, depth, one_a_position(name, state), torch.zeros_like(state))

    def _by_model(self, site: Site) -> Write:
        """A head's write each, or an MLP's."""
        layer, depth = site.layer or 0, depth_of(self.network.model, site)
        if site.name == "mlp_out":
            return self._whole(site, Name("mlp", layer), depth)
        branch, whole = self.network.attention[layer].branch, self._state(site)
        z = self.network.at("z", layer)
        written = branch.push(torch.einsum("phe,hed->phd", z, branch.weight)[None])[0]
        constant = branch.constant(whole[None])
        n, heads, d_model = written.shape
        node = torch.arange(heads, device=z.device).repeat(n)
        pos = torch.arange(n, device=z.device).repeat_interleave(heads)
        names = [Name("head", layer, head) for head in range(heads)]
        parts = Parts(names, node, pos, z.new_full((n * heads,), torch.nan), written.reshape(-1, d_model))
        return Write(site, depth, parts, torch.zeros_like(whole) if constant is None else constant[0])

    def _by_features(self, place: Site) -> Write:
        """The features that write there, those of earlier layers included, then their error and a skip's write."""
        group = self.groups[place]
        one, layer, whole = group.dictionary, place.layer or 0, self._state(group.target)
        site, across = "" if place.name == "mlp_out" else place.name, getattr(one, "n_layers", 0)
        x, codes = self.codes(group)
        constant = one.rest(x).detach().to(whole)
        constant = constant[:, layer] if across else constant
        names, columns = [], []
        for of in range(layer + 1) if across else [layer]:
            first = of * group.count if across else 0
            pos, index = codes[:, first : first + group.count].nonzero(as_tuple=True)
            value = codes[pos, first + index].to(whole)
            vectors = one.writes(x, pos, first + index)[:, layer - of].detach().to(whole) * value[:, None]
            unique, node = index.unique(return_inverse=True)
            columns.append((node + len(names), pos, value, vectors))
            names += [Name("feature", of, i, site=site) for i in unique.tolist()]
        parts = Parts(names, *map(torch.cat, zip(*columns, strict=True)))
        left = (whole - constant).index_add(0, parts.pos, parts.vectors, alpha=-1)
        if one.W_skip is not None:
            skipped = (x.to(one.W_skip) @ one.W_skip).detach().to(whole)
            left, parts = left - skipped, joined_parts([parts, one_a_position(Name("mlp", layer), skipped)])
        parts = joined_parts([parts, one_a_position(Name("error", layer, site=site), left)])
        return Write(place, depth_of(self.network.model, group.target), parts, constant)


def _beside(model: Model, groups: dict[Site, Features], one: Any) -> dict[Site, Features]:
    """The features of one more dictionary, by the place where they write."""
    added: dict[Site, Features] = {}
    depths = {depth_of(model, group.target) for place, group in groups.items() if place.name not in BRANCHES}
    for group in features_of(model, one.to(model.device) if hasattr(one, "to") else one, "source"):
        place = named_place(model, group.target)
        if place in groups or (place.name not in BRANCHES and depth_of(model, group.target) in depths):
            raise ArgumentError(f"two dictionaries write {place}: give one a place")
        added[place] = group
    return added


def standing_together(model: Model, dictionaries: Iterable[Any]) -> list[Any]:
    """Of some dictionaries those that ``Writes`` takes together, in their order: the first at each place.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> one, other = (TopK(model.d_model, 8, k=2, facts=Facts(site=f"resid_post.{i}")) for i in (0, 1))
    >>> len(standing_together(model, [one, other, one]))
    2
    """
    chosen: list[Any] = []
    groups: dict[Site, Features] = {}
    for one in dictionaries:
        try:
            groups |= _beside(model, groups, one)
        except (ArgumentError, LoadError):
            continue
        chosen.append(one)
    return chosen


def feature_name(model: Model, dictionary: Any, unit: int) -> str:
    """What a feature is called by where it writes, given its number in its dictionary.

    Raises
    ------
    ArgumentError
        For a dictionary of another place, or without such a feature.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> feature_name(model, TopK(model.d_model, 8, k=2, facts=Facts(site="resid_post.1")), 7)
    'L1F7:resid_post'
    """
    for group in features_of(model, dictionary, "source"):
        if group.first <= unit < group.first + group.count:
            place = named_place(model, group.target)
            site = "" if place.name == "mlp_out" else place.name
            return str(Name("feature", place.layer or 0, unit - group.first, site=site))
    raise ArgumentError(f"there is no feature {unit}: the dictionary has {dictionary.n_features}")


def named_place(model: Model, site: Site) -> Site:
    """The site that a feature's name has: one of ``WRITTEN_AT``."""
    parallel = model.anatomy.layers[site.layer or 0].parallel
    return Site(
        {"attn_in": "resid_pre", "mlp_in": "resid_pre" if parallel else "resid_mid"}.get(site.name, site.name),
        site.layer,
    )


def joined_parts(several: Sequence[Parts]) -> Parts:
    """Parts of several writes as one; what a cross-layer feature writes at several layers is one part."""
    names: dict[Name, int] = {}
    number = [torch.tensor([names.setdefault(name, len(names)) for name in one.names]) for one in several]
    node = torch.cat([to.to(one.node.device)[one.node] for to, one in zip(number, several, strict=True)])
    pos, value, vectors = (torch.cat([getattr(one, column) for one in several]) for column in Parts._fields[2:])
    places, of = torch.stack([pos, node]).unique(dim=1, return_inverse=True)
    count = places.shape[1]
    return Parts(
        list(names),
        places[1],
        places[0],
        value.new_empty(count).index_copy_(0, of, value),
        vectors.new_zeros(count, vectors.shape[1]).index_add_(0, of, vectors),
    )


def one_a_position(name: Name, vectors: Float[Tensor, "pos d_model"]) -> Parts:
    """A node that writes at every position."""
    pos = torch.arange(len(vectors), device=vectors.device)
    return Parts([name], torch.zeros_like(pos), pos, vectors.new_full((len(pos),), torch.nan), vectors)
