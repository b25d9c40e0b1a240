"""What a table has to know of sites before the first token: which layers have one, and how large it is there.

Widths are not derived from the configuration but seen: two tokens are run once for a model, and what was read of them
has the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from caseback.errors import SiteAbsent, UnknownSite
from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import execute

_shapes: WeakKeyDictionary[Anatomy, dict[Site, tuple[int, ...]]] = WeakKeyDictionary()


def layered(anatomy: Anatomy, name: str, table: str, layers: Sequence[int] | None = None) -> list[Site]:
    """A site at every layer that has it, or at some.

    Raises
    ------
    SiteAbsent
        Where the model lacks it, in these layers or at all, or it stands in no layer.
    """
    try:
        own = list(anatomy.sites(name))
    except UnknownSite as error:
        raise SiteAbsent(f"no table {table}: {error}") from None
    if any(site.layer is None for site in own):
        raise SiteAbsent(f"no table {table} of {name!r}: expected a site that layers have, such as 'resid_post'")
    if layers is None:
        return own
    by_layer = {site.layer: site for site in own}
    missing = [layer for layer in layers if layer not in by_layer]
    if missing:
        raise SiteAbsent(
            f"no table {table} of {name!r} at layer {missing[0]}: it is at {', '.join(map(str, by_layer))}"
        )
    return [by_layer[layer] for layer in layers]


def shape_of(model: Model, sites: Sequence[Site], table: str) -> tuple[int, ...]:
    """The size of sites after (batch, pos), the same at all of them.

    Raises
    ------
    SiteAbsent
        Where layers differ in size.
    """
    known = _shapes.setdefault(model.anatomy, {})
    unknown = [site for site in sites if site not in known or site.kind.view is not None]
    if unknown:
        run = execute(model.anatomy, model.tokens([[1, 1]]), read=unknown, logits=False)
        known.update({site: tuple(run[site].shape[2:]) for site in unknown})
    shapes = {known[site]: site for site in reversed(sites)}
    if len(shapes) > 1:
        listed = ", ".join(f"{' x '.join(map(str, shape))} at {site}" for shape, site in shapes.items())
        raise SiteAbsent(f"no table {table}: layers differ in size ({listed}); choose layers of one size")
    return next(iter(shapes))


def above_zero(x: Tensor) -> Tensor:
    """1 where a number is above 0, else 0, in its own dtype: far faster than by way of truth values."""
    return torch.gt(x, 0, out=torch.empty_like(x))


def _in_caches(x: Tensor) -> int:
    """Numbers that the caches of all threads hold; with fewer a thread takes longer to wake than to work."""
    return limit("table_numbers", x.device) * (torch.get_num_threads() if x.device.type == "cpu" else 1)


def in_slices(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some tokens of (token, ...) after another, as many as several sums can be formed of in a CPU's cache."""
    step = max(1, _in_caches(x) // max(1, x[:1].numel()))
    for first in range(0, len(x), step):
        some = slice(first, first + step)
        yield some, x[some]


def in_columns(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some units of (token, unit) after another: for counts by unit, which then stay in a cache too."""
    step = max(1, _in_caches(x) // max(1, len(x)))
    for first in range(0, x.shape[1], step):
        some = slice(first, first + step)
        yield some, x[:, some]
