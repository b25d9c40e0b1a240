"""Alignments: where in a network a causal model's variables are claimed to lie, and interchanges there.

    h = h(b) + (h(s) - h(b)) R^T diag(m) R          rows of R (k, width) orthonormal, m in [0, 1]^k

``At`` names a place: a site, a head, positions, and a subspace there (all of it where none is given). Base and source
may have the variable at different positions. A variable that lies in several places is swapped in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, EditError, TokensError
from caseback.jobs.budget import limit
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.localize.components.subspace import orthonormal
from caseback.model.anatomy.coerce import narrowing
from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.prompts.places import Place, addresses, named, placed
from caseback.model.running.edits import Edit, Where
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True, eq=False)
class At:
    """A place in a network.

    Attributes
    ----------
    site, layer, head
        Any site that can be edited but the maps of attention. At a site with heads, without a ``head``, the same
        subspace of each head is meant.
    pos
        The base's own positions, as in edits, or a text that stands in every prompt; all by default.
    basis
        Rows (k, width) that span the subspace; the whole activation where it is None.
    source_pos
        Positions in the source prompts, as many as in the base; by default ``pos``, found in the source itself.

    Examples
    --------
    >>> str(At("z", layer=2, head=1, pos=-1))
    'z L2H1 pos -1'
    """

    site: str
    layer: int | None = None
    head: int | None = None
    pos: Place = None
    basis: Float[Tensor, "k width"] | None = None
    source_pos: Place = None

    def holding(self, basis: Any, variable: str | None = None) -> At:
        """The same place with a subspace: rows, or what ``das`` found, of which ``variable`` picks one variable's."""
        if variable is not None:
            basis = basis[basis["variable"].values == variable]
        rows = basis.values if isinstance(basis, xr.DataArray) else basis
        return replace(self, basis=torch.as_tensor(rows))

    def __str__(self) -> str:
        layer = "" if self.layer is None else f" L{self.layer}"
        head = "" if self.head is None else f"H{self.head}"
        pos = "" if self.pos is None else f" pos {named(self.pos)}"
        size = "" if self.basis is None else f" rank {len(torch.atleast_2d(self.basis))}"
        return f"{self.site}{layer}{head}{pos}{size}"

    def site_in(self, model: Model) -> Site:
        """Its site in a model.

        Raises
        ------
        UnknownSite, SiteAbsent, OutOfRange
            For a site or a layer that the model does not have.
        EditError
            For a map of attention, a site that is only read, or an address without its layer.
        """
        sites = list(model.anatomy.sites(self.site if self.layer is None else (self.site, self.layer)))
        site = sites[0]
        if site.name in MAPS or not site.kind.editable:
            raise EditError(
                f"there is no subspace to swap at {site.name!r}: choose a site of vectors that can be edited"
            )
        if site.kind.layered and len(sites) > 1:
            raise EditError(f"a variable lies in one layer: give layer= for {site.name!r}")
        if not site.kind.layered and self.layer is not None:
            raise EditError(f"{site.name!r} is not in a layer: leave out layer={self.layer}")
        return site


Alignment = Mapping[str, At | Sequence[At]]


@dataclass(frozen=True, eq=False)
class Interchange(Edit):
    """Set the part of an activation that lies in some directions to another prompt's value, in some examples."""

    donor: Float[Tensor, "batch pos *head width"]
    """What stood in the source prompts, one row for each position addressed."""
    on: Bool[Tensor, " batch"]
    directions: Float[Tensor, "k width"] | None = None
    """Orthonormal rows; None for all directions."""
    share: Float[Tensor, " k"] | None = None
    """How much of each row, or of each coordinate where there are no rows, is exchanged; all where None."""

    def new(self, old: Tensor, where: Where) -> Tensor:
        rows = where.rows
        given = self.donor[rows.example.to(self.donor.device), rows.order.to(self.donor.device)]
        given = given.view(old.shape).to(old)
        on = self.on[rows.example].to(old.device).view(-1, *[1] * (old.ndim - 1))
        if self.directions is None and self.share is None:
            return torch.where(on, given, old)
        if self.directions is None:
            assert self.share is not None
            return old + torch.where(on, (given - old) * self.share.to(old), 0.0)
        basis = narrowing(lambda x: x.to(old.device))(self.directions)
        difference = (given - old).to(basis.dtype) @ basis.T
        if self.share is not None:
            difference = difference * self.share.to(difference)
        return old + torch.where(on, (difference @ basis).to(old.dtype), 0.0)


@dataclass(frozen=True, eq=False)
class Seat:
    """One place with what is known of it on given examples: base positions, and the sources' values there."""

    variable: str
    at: At
    site: Site
    positions: list[Positions]
    donors: list[Tensor]
    on: list[Bool[Tensor, " batch"]]

    @property
    def width(self) -> int:
        return self.donors[0].shape[-1]

    def edits(self, directions: Tensor | None = None, share: Tensor | None = None) -> list[Edit]:
        """The interchange as edits, one for each group of positions."""
        where: dict[str, Any] = {"site": self.site.name, "layer": self.site.layer, "head": self.at.head}
        return [
            Interchange(**where, pos=pos, donor=donor, on=on, directions=directions, share=share)
            for pos, donor, on in zip(self.positions, self.donors, self.on, strict=True)
        ]

    def of(self, rows: Tensor) -> Seat:
        """The same on some of the examples."""
        pos = [p[rows] if isinstance(p, Tensor) and p.ndim else p for p in self.positions]
        donors = [donor[rows.to(donor.device)] for donor in self.donors]
        return replace(self, positions=pos, donors=donors, on=[on[rows] for on in self.on])


def places_of(alignment: Alignment, data: Interchanges) -> dict[str, list[At]]:
    """Each variable's places as a list.

    Raises
    ------
    CasebackError
        For a variable without sources, or a source whose variable lies nowhere.
    """
    places = {name: [at] if isinstance(at, At) else list(at) for name, at in alignment.items()}
    for name in places:
        if name not in data.sources:
            raise CasebackError(f"{name!r} is aligned but has no source: the examples swap {', '.join(data.sources)}")
    for name in data.sources:
        if not places.get(name):
            raise CasebackError(f"{name!r} has sources but no place: align it with an At(site, ...)")
    return places


def seats(
    model: Model,
    data: Interchanges,
    alignment: Alignment,
    *,
    batch_size: int | None = None,
    ran: Mapping[str, Run] | None = None,
) -> list[Seat]:
    """Find each place in the prompts and read the sources there, once.

    Parameters
    ----------
    model, data, alignment
        Whose variables lie where.
    batch_size
        Source prompts in one pass.
    ran
        Runs of the sources, by variable, whose gradients are then kept; by default the sources are run here, without
        gradients.

    Raises
    ------
    EditError, UnknownSite, SiteAbsent, OutOfRange
        For a place that the model or a prompt does not have.
    TokensError
        Where base and source have different numbers of positions.
    """
    batch_size = limit("interchange_prompts", given=batch_size)
    seated = []
    for variable, places in places_of(alignment, data).items():
        tokens = data.sources[variable] if ran is None else ran[variable].tokens
        sites = [at.site_in(model) for at in places]
        where = [_spans(at, data.base, tokens) for at in places]
        columns = [torch.tensor(there) + tokens.first.cpu()[:, None] for _, there, _ in where]
        if ran is None:
            read = _read(model, tokens, sites, columns, batch_size)
        else:
            read = [_gathered(ran[variable], site, at) for site, at in zip(sites, columns, strict=True)]
        for at, site, (here, _, count), values in zip(places, sites, where, read, strict=True):
            groups, on = addresses(here), data.on(variable)
            # where prompts differ in their number of positions, the last one is not swapped a second time
            parts = [slice(None)] if len(groups) == 1 else [slice(i, i + 1) for i in range(len(groups))]
            donors = [_of_head(at, site, values[:, part]) for part in parts]
            seated.append(Seat(variable, at, site, groups, donors, [on & (count > (p.start or 0)) for p in parts]))
    return seated


def _of_head(at: At, site: Site, values: Tensor) -> Tensor:
    if at.head is None:
        return values
    if values.ndim < 4:
        raise EditError(f"{site.name!r} has no heads: leave out head={at.head}")
    if not -values.shape[2] <= at.head < values.shape[2]:
        raise EditError(f"head {at.head} is out of range at {site.name!r}: there are {values.shape[2]}")
    return values[:, :, at.head]


def _spans(at: At, base: Tokens, source: Tokens) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """Positions in each base and in its source, all lists as long as the longest, filled up with their last one.

    The third result is how many positions each base really has.
    """
    here = placed(at.pos, base)
    there = placed(at.pos if at.source_pos is None else at.source_pos, source)
    for b, (mine, theirs) in enumerate(zip(here, there, strict=True)):
        if len(mine) != len(theirs):
            raise TokensError(
                f"example {b}: {len(mine)} positions in the base, {len(theirs)} in its source at {at}; give pos= and "
                "source_pos= that address as many"
            )
    # gathered as one rectangle; what only fills it up is not swapped (see seats)
    longest = max(map(len, here))
    filled = [[[*span, *span[-1:] * (longest - len(span))] for span in spans] for spans in (here, there)]
    return filled[0], filled[1], torch.tensor([len(span) for span in here])


def _read(model: Model, tokens: Tokens, sites: list[Site], columns: list[Tensor], batch_size: int) -> list[Tensor]:
    """(batch, pos, ...) of each site at each prompt's columns; a batch of prompts in memory at a time."""
    values: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, start + batch_size)
        every = any(site.name == "logits" for site in sites)
        run = execute(model.anatomy, tokens[rows], read=[*dict.fromkeys(sites)], logits=every)
        for parts, site, at in zip(values, sites, columns, strict=True):
            parts.append(_gathered(run, site, at[rows]))
    return [torch.cat(parts) for parts in values]


def _gathered(run: Run, site: Site, columns: Tensor) -> Tensor:
    values = run[site.name, site.layer]
    return values[torch.arange(len(columns), device=values.device)[:, None], columns.to(values.device)]


def alignment_as_text(alignment: Alignment) -> dict[str, list[str]]:
    """An alignment as an attribute of a result."""
    return {name: [str(p) for p in ([at] if isinstance(at, At) else at)] for name, at in alignment.items()}


def basis_of(at: At, width: int) -> Tensor | None:
    """A place's subspace as orthonormal rows, None for all of it.

    Raises
    ------
    EditError
        For rows of another size, more rows than the site is wide, or rows that depend on one another.
    """
    if at.basis is None:
        return None
    if len(torch.atleast_2d(torch.as_tensor(at.basis))) > width:
        raise EditError(f"a subspace of {len(at.basis)} dimensions at {at}, which is {width} wide")
    return orthonormal(at.basis, width, str(at))[0]
