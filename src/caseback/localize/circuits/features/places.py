"""Places: the sites of single layers whose units are nodes, and how nodes are read there, written and differentiated.

    x = sum_i f_i d_i + b + e        at the site that a dictionary writes: features f and the error e are nodes

A *place* is one site of one layer. Its nodes are its units (features, neurons), its heads, or, where it holds one
vector a position (an error, an MLP's write, an embedding), that vector. Every value is (..., unit, size): a feature has
size 1, a head d_head, an error d_model. What a dictionary does not cover is all error: in layers without one the whole
stream of the site is one node, named as an error is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import WRITTEN_AT, Name
from caseback.model.running.model import Model
from caseback.model.running.session import pulled_through_view, written_change

OWN = {"mlp_post": "neuron", "z": "head", "mlp_out": "mlp", "embed": "embed"}
"""Sites of the model itself whose parts have names."""


@dataclass(frozen=True)
class Place:
    """One site of one layer, whose parts are nodes.

    Attributes
    ----------
    site
        What its values are read from: a registered site, or one of the model's own.
    kind
        Of its nodes: ``"feature"``, ``"error"``, ``"neuron"``, ``"head"``, ``"mlp"`` or ``"embed"``.
    """

    site: Site
    kind: str

    @property
    def base(self) -> Site:
        """The model's site that it is computed from."""
        return self.site.base

    @property
    def written(self) -> Site:
        """The model's site that changes with it."""
        return self.site.written

    @property
    def is_view(self) -> bool:
        """Whether it is computed from another site."""
        return self.site.kind.view is not None

    @property
    def is_flat(self) -> bool:
        """Whether heads are encoded side by side."""
        return self.site.kind.view is not None and self.site.kind.view.flat

    def name(self, unit: int, pos: str = "") -> Name:
        """A node's name."""
        layer, index = -1 if self.site.layer is None else self.site.layer, -1
        index = unit if self.kind in ("feature", "neuron", "head") else -1
        at = self.written.name if self.kind in ("feature", "error") else ""
        return Name(self.kind, layer, index, pos, "" if at == "mlp_out" else at)

    def value(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... unit size"]:
        """The nodes' values, from what stands at the base."""
        if self.is_view:
            with torch.no_grad():
                coded = self.site.codec.encode(x.flatten(-2) if self.is_flat else x)
            return self._as_nodes(coded)
        return self._as_nodes(x.detach())

    def _as_nodes(self, coded: Tensor) -> Tensor:
        if self.kind == "head":
            return coded
        return coded.unsqueeze(-1) if self.kind in ("feature", "neuron") else coded.unsqueeze(-2)

    def _as_coded(self, nodes: Tensor) -> Tensor:
        if self.kind == "head":
            return nodes
        return nodes.squeeze(-1) if self.kind in ("feature", "neuron") else nodes.squeeze(-2)

    def pulled(self, gradient: Float[Tensor, "... d"], x: Float[Tensor, "... d"]) -> Float[Tensor, "... unit size"]:
        """A gradient at the nodes from that at the written site, where ``x`` stands at the base."""
        if not self.is_view:
            return self._as_nodes(gradient)
        if self.kind == "error":
            return self._as_nodes(gradient)  # an error is added as it is
        coded = self._as_coded(self.value(x))
        return self._as_nodes(pulled_through_view(self.site, gradient, coded, x))

    def written_by(self, change: Float[Tensor, "... unit size"], x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """What a change of the nodes' values adds to the written site, where ``x`` stands at the base."""
        edited = self._as_coded(change)
        if not self.is_view or self.kind == "error":
            return edited.to(x.dtype)
        with torch.no_grad():
            coded = self._as_coded(self.value(x))
            flat = x.flatten(-2) if self.is_flat else x
            return written_change(self.site.codec, coded, coded + edited, flat).to(x.dtype)

    def read_by(self, weights: Float[Tensor, "row unit size"], x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """The gradient, at the base, of the nodes' values summed with weights."""
        coded = self._as_coded(weights)
        if not self.is_view:
            return coded
        with torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            out = self.site.codec.encode(at.flatten(-2) if self.is_flat else at)
            return torch.autograd.grad(out, at, coded.to(out))[0]


def places_of(model: Model, sites: str | Sequence[Any]) -> list[Place]:
    """The places of some sites, in the order in which the model computes them.

    Where errors are asked for, layers that a dictionary does not cover are places too, of the kind ``"error"`` and with
    a site of the model's own.

    Raises
    ------
    SiteAbsent
        For a site whose parts have no names, none at all, and two dictionaries that write at one site.
    """
    given = [sites] if isinstance(sites, str) or _is_pair(sites) else list(sites)
    chosen = list(dict.fromkeys(site for one in given for site in model.anatomy.sites(one)))
    if not chosen:
        raise SiteAbsent("no site is given: expected some, such as 'feature' and 'feature_error', or 'mlp_post'")
    places = [Place(site, _kind(site)) for site in chosen]
    places += _uncovered(model, places, [one for one in given if isinstance(one, str)])
    names: dict[tuple[str, Site], Site] = {}
    for place in places:
        other = names.setdefault((place.kind, place.written), place.site)
        if other != place.site:
            raise SiteAbsent(
                f"{other} and {place.site} both write at {place.written}: their nodes would have the same names; "
                "give one of them"
            )
    for written, group in groups_of(places).items():
        if len({place.is_view for place in group if place.kind != "error"}) > 1:
            raise SiteAbsent(
                f"{written} is given whole and as a dictionary's features: give one of them, or nodes overlap"
            )
    return sorted(places, key=_order)


def _is_pair(sites: Any) -> bool:
    return isinstance(sites, tuple) and len(sites) == 2 and isinstance(sites[0], str) and isinstance(sites[1], int)


def _order(place: Place) -> tuple[int, int, str]:
    order = ("embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
    return (-1 if place.site.layer is None else place.site.layer, order.index(place.written.name), place.kind)


def _kind(site: Site) -> str:
    view = site.kind.view
    if view is None:
        if site.name not in OWN:
            raise SiteAbsent(
                f"{site.name!r} has no parts that are nodes: expected dictionaries' features and errors, or one of "
                f"{', '.join(OWN)}"
            )
        return OWN[site.name]
    if view.written not in WRITTEN_AT:
        raise SiteAbsent(
            f"{site.name!r} writes at {view.written!r}, and nodes have names only where they write at one of "
            f"{', '.join(WRITTEN_AT)}"
        )
    return "error" if is_error(site) else "feature"


def is_error(site: Site) -> bool:
    """Whether a registered site is what a dictionary leaves: as ``attach`` names it."""
    return site.kind.view is not None and site.name.endswith("_error")


def _uncovered(model: Model, places: Sequence[Place], names: Sequence[str]) -> list[Place]:
    """Layers that have no dictionary of a site whose errors are asked for by name alone."""
    at = {place.written.name for place in places if place.kind == "error" and place.site.name in names}
    covered = {place.written for place in places}
    every = [site for name in sorted(at) for site in model.anatomy.sites(name)]
    return [Place(site, "error") for site in every if site not in covered]


def groups_of(places: Sequence[Place]) -> dict[Site, list[Place]]:
    """Places by the site that they write: what is patched together there."""
    groups: dict[Site, list[Place]] = {}
    for place in places:
        groups.setdefault(place.written, []).append(place)
    return groups


def gaps_of(places: Sequence[Place]) -> list[str]:
    """The places that no dictionary covers, by their names."""
    return [str(place.site) for place in places if place.kind == "error" and not place.is_view]
