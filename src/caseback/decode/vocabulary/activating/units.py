"""Units of a site: what activates, as one number per token and unit.

neurons, experts, stream dimensions, vocabulary     the site's own last dimension
heads                                               the norm of a head's vector, or each of its dimensions
directions D                                        x D^T, x the site's vector with its heads side by side
features                                            f(x) of any function, such as a dictionary's encoder
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens

Directions = Tensor | Callable[[Tensor], Tensor]
Heads = Literal["norm", "flat"]


@dataclass(frozen=True)
class Units:
    """The units that are looked at.

    Attributes
    ----------
    site
        Where.
    chosen
        Indices of the units looked at; None for all of them.
    directions
        (unit, width), or a function from (token, width) to (token, unit); None for the site's own units.
    heads
        At a site with heads: ``"norm"`` for one unit per head, ``"flat"`` for one per head and dimension.
    """

    site: Site
    chosen: tuple[int, ...] | None = None
    directions: Directions | None = None
    heads: Heads = "norm"

    def run(self, model: Model, tokens: Tokens, *, grad: bool = False) -> Run:
        """A run that read the site, without logits where nobody needs them."""
        needs_logits = self.site.name == "logits"
        return execute(model.anatomy, tokens, read=[self.site], grad=grad, logits=needs_logits)

    def values(self, run: Run) -> Float[Tensor, "token unit"]:
        """Activations at the real tokens of a run, prompt after prompt."""
        return self.of(run[self.site][run.tokens.mask.to(run[self.site].device)])

    def of(self, x: Float[Tensor, "token *head unit"]) -> Float[Tensor, "token unit"]:
        """The units' activations, of what the site holds at some tokens."""
        n_tokens = len(x)
        if x.ndim == 3 and (self.directions is not None or self.heads == "flat"):
            x = x.flatten(1)
        elif x.ndim == 3:
            x = torch.linalg.vector_norm(x, dim=-1)
        if isinstance(self.directions, Tensor):
            if self.directions.ndim != 2 or self.directions.shape[1] != x.shape[1]:
                raise CasebackError(
                    f"directions of shape {tuple(self.directions.shape)} at {self.site}: "
                    f"expected (units, {x.shape[1]}), one row per direction"
                )
            x = x @ self.directions.to(x).T
        elif self.directions is not None:
            x = self.directions(x)
            if not isinstance(x, Tensor) or x.ndim != 2 or len(x) != n_tokens:
                got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise CasebackError(f"the function of features gave {got}: expected (token, unit)")
        if self.chosen is None:
            return x
        if max(self.chosen) >= x.shape[1]:
            raise OutOfRange(f"unit {max(self.chosen)} of {self.site}: there are {x.shape[1]}, 0 to {x.shape[1] - 1}")
        return x[:, list(self.chosen)]


@checked
def units_of(
    model: Model,
    site: str | Site,
    *,
    layer: int | None = None,
    units: Sequence[int] | None = None,
    directions: Directions | None = None,
    heads: Heads = "norm",
) -> Units:
    """Name the units of one site of a model.

    Parameters
    ----------
    model
        The model.
    site
        A site's name, such as ``"mlp_post"``, ``"z"``, ``"resid_post"`` or ``"mlp_post.2"``.
    layer
        Its layer, where the name gives none.
    units
        Indices; all by default.
    directions
        A matrix (unit, width) or a function of (token, width), instead of the site's own units.
    heads
        What a unit of a site with heads is.

    Raises
    ------
    SiteAbsent
        For a site that has no units: one number per token, or a map of tokens to tokens.
    OutOfRange
        For a negative unit, an unknown kind of heads, or a layer that must be named and is not.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> str(units_of(model, "mlp_post", layer=1, units=[0, 5]).site)
    'mlp_post.1'
    """
    sites = list(model.anatomy.sites(site if layer is None else (str(site), layer)))
    if len(sites) != 1:
        raise OutOfRange(f"{site} is in {len(sites)} layers: say which with layer=")
    (at,) = sites
    dims = at.kind.dims
    if "query" in dims or len(dims) < 2:
        raise SiteAbsent(
            f"{at} has no units: it holds {' x '.join(dims)}. Choose neurons (mlp_post), heads (z, head_out) "
            "or stream dimensions (resid_post)"
        )
    if isinstance(directions, type):
        raise CasebackError(f"directions is the class {directions.__name__}: expected a matrix or a function")
    if heads not in ("norm", "flat"):
        raise OutOfRange(f"heads={heads!r}: expected 'norm' or 'flat'")
    if units is not None and (not len(units) or min(units) < 0):
        raise OutOfRange(f"units {list(units)}: expected one index or more, counted from 0")
    chosen = None if units is None else tuple(int(u) for u in units)
    return Units(at, chosen, directions, heads)
