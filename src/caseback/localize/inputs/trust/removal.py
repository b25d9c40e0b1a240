"""What removing tokens is made of: scores of features, their ranks, and runs in which some tokens are replaced.

Prompts of which some tokens are kept are the variants of one sweep; those that several methods ask for are run once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.prompts.masked_prompts import Kept, Units
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens


def as_several(scores: xr.DataArray | Tensor) -> Float[Tensor, "attribution batch pos"]:
    """Scores in float64 with a dimension for attributions, be there one or several.

    Raises
    ------
    CasebackError
        For scores of other dimensions.
    """
    if isinstance(scores, xr.DataArray):
        last = last_dim(scores)
        wanted = ("attribution", "batch", last) if "attribution" in scores.dims else ("batch", last)
        if set(scores.dims) != set(wanted):
            raise CasebackError(
                f"scores of dimensions {scores.dims}: expected (batch, pos) or (attribution, batch, pos)"
            )
        scores = torch.from_numpy(np.array(scores.transpose(*wanted).values))
    scores = torch.as_tensor(scores).detach().cpu().double()
    if scores.ndim not in (2, 3):
        raise CasebackError(
            f"scores of shape {tuple(scores.shape)}: expected (batch, pos) or (attribution, batch, pos)"
        )
    return scores if scores.ndim == 3 else scores[None]


def last_dim(scores: xr.DataArray | Tensor) -> str:
    """What scores are of: ``"pos"`` or ``"feature"``."""
    return "feature" if isinstance(scores, xr.DataArray) and "feature" in scores.dims else "pos"


def of_units(scores: xr.DataArray | Tensor, units: Units) -> Float[Tensor, "attribution batch feature"]:
    """The score of every feature that may be replaced, the sum of its tokens' where they have the scores; else 0.

    Raises
    ------
    CasebackError
        For scores of other prompts or features, or that are not finite where they are needed.
    """
    given = as_several(scores)
    by_feature = last_dim(scores) == "feature"
    expected = units.free.shape if by_feature else units.of.shape
    if given.shape[1:] != expected:
        what = "features" if by_feature else "tokens"
        raise CasebackError(
            f"scores of shape {tuple(given.shape[1:])} where (prompts, {what}) are {tuple(expected)}: attribute these "
            "very prompts"
        )
    needed = units.free if by_feature else units.of >= 0
    if not bool(given[:, needed].isfinite().all()):
        raise CasebackError("scores that are not finite at tokens of the prompt: they cannot be ranked")
    given = torch.where(needed, given, 0.0)
    if by_feature:
        return given
    total = torch.zeros(len(given), *units.free.shape, dtype=torch.float64)
    return total.scatter_add_(-1, units.of.clamp_min(0).expand_as(given), given)


def ranks(scores: xr.DataArray | Tensor, units: Units) -> Int[Tensor, "attribution batch pos"]:
    """The rank of each token's feature by score, 0 for the highest; ties are in the prompt's order.

    A token that stays has rank 0 and is to be left out by whoever asks.

    Examples
    --------
    >>> units = Units(torch.tensor([[0, 1, 2, -1]]), torch.tensor([[True, True, True]]))
    >>> ranks(torch.tensor([[0.5, 2.0, 1.0, 9.0]]), units).tolist()
    [[[2, 0, 1, 0]]]
    """
    total = torch.where(units.free, of_units(scores, units), -torch.inf)
    order = total.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
    of = units.of.expand(len(rank), -1, -1)
    return torch.where(of >= 0, rank.gather(-1, of.clamp_min(0)), 0)


@dataclass
class Measured:
    """Prompts of which some tokens are kept, each kind of them measured once however often it is asked for."""

    model: Model
    tokens: Tokens
    metric: Metric
    instead: Float[Tensor, "batch pos d_model"]

    def __post_init__(self) -> None:
        self.known: dict[tuple, int] = {}
        self.variants: list[Kept] = []

    def ask(self, keep: Bool[Tensor, "attribution batch k pos"]) -> Int[Tensor, "attribution batch k"]:
        """For masks of every method, prompt and step: which row of ``values`` will have them."""
        n_methods, n_batch, n_k, _ = keep.shape
        index = torch.empty(n_methods, n_batch, n_k, dtype=torch.long)
        for m in range(n_methods):
            for k in range(n_k):
                index[m, :, k] = self._row(keep[m, :, k], None)
        return index

    def ask_soft(
        self, keep: Float[Tensor, "attribution batch pos"], draw: tuple[int, int]
    ) -> Int[Tensor, "attribution batch"]:
        """The same for shares of dimensions, in one draw."""
        return torch.tensor([self._row(mask, draw) for mask in keep])[:, None].expand(-1, len(self.tokens))

    def _row(self, keep: Tensor, draw: tuple[int, int] | None) -> int:
        # by content: methods that keep the same tokens share a run
        key = (keep.contiguous().numpy().tobytes(), draw)
        if key not in self.known:
            self.known[key] = len(self.variants)
            self.variants.append(Kept("embed", keep.clone(), self.instead, draw))
        return self.known[key]

    def values(self, progress: bool) -> tuple[Float[Tensor, "variant batch"], Float[Tensor, " batch"]]:
        """The metric of all that was asked for, and of the prompts as they are."""
        names = [str(i) for i in range(len(self.variants))]
        swept = self.model.sweep(self.tokens, self.variants, self.metric, labels=names, progress=progress)
        return torch.from_numpy(swept.values).double(), torch.from_numpy(swept["clean"].values).double()


def dataset(
    function: Callable[..., Any],
    model: Model,
    scores: xr.DataArray | Tensor,
    variables: Mapping[str, tuple[Sequence[str], Any]],
    units: Tensor | None,
    share: Tensor | None,
    attrs: dict[str, Any],
) -> xr.Dataset:
    """Variables, (dims, values), as labeled arrays, without the dimension for attributions where none was given."""
    many = scores.ndim == 3
    named = scores.coords.get("attribution") if isinstance(scores, xr.DataArray) else None
    arrays = {}
    for name, (dims, values) in variables.items():
        coords: dict[str, Any] = {}
        if "attribution" in dims and not many:
            dims, values = dims[1:], values[0]
        elif "attribution" in dims and named is not None:
            coords["attribution"] = named.values
        if "k" in dims and units is not None and share is not None:
            coords |= {"units": (("batch", "k"), units.numpy()), "share": (("batch", "k"), share.numpy())}
        arrays[name] = labelled(values, dims, coords, name=name, technique=function, model=model, **attrs)
    first = next(iter(arrays.values()))
    return xr.Dataset(arrays, attrs=first.attrs)
