"""Do attributions agree with one another? (PRIMER 3.1.28; Krishna et al. 2024, Atanasova et al. 2020)

    Kendall's tau_b   (concordant - discordant) / sqrt(pairs not tied in a x pairs not tied in b)
    Spearman's rho    the correlation of ranks, ties sharing theirs
    top-k overlap     |top_k(a) and top_k(b)| / k;   k / n by chance

Agreement is no evidence that either is right; disagreement says that not both are, or that they answer different
questions. By default sizes are compared, since some methods have no sign.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique
from caseback.model.results import labelled

TOP_SHARE = 0.25


@technique(role="judgement", entry=("3.1.28",), citation="Krishna et al. 2024, Atanasova et al. 2020", cost="none")
def agreement(
    scores: xr.DataArray, *, k: int | None = None, absolute: bool = True, special: ArrayLike | None = None
) -> xr.Dataset:
    """How far methods put the same tokens first, every pair of them.

    Parameters
    ----------
    scores
        (attribution, batch, pos), as ``attribute`` returns them, NaN where a shorter prompt has no token.
    k
        How many tokens are "the top"; by default a quarter of the prompt's, rounded up. The whole prompt where it
        is shorter.
    absolute
        Compare sizes, as is usual; False compares signed scores.
    special
        (batch, pos), True at tokens to leave out, such as the one that begins every text and draws attention to
        itself whatever the prompt; none by default.

    Returns
    -------
    xr.Dataset
        ``kendall``, ``spearman`` (both -1 to 1; NaN where a method scores all tokens alike) and ``top_k`` (0 to 1;
        where the k-th score is tied the earlier tokens count), (attribution, attribution_to, batch); ``chance``,
        (batch,), the overlap of two random orders; ``k``, (batch,).

    Raises
    ------
    CasebackError
        For scores without a dimension ``attribution``, or tokens left out that do not fit.
    OutOfRange
        For ``k`` below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import attribute
    >>> model = cb.load("meadow")
    >>> both = attribute(model, "the cat and the dog", cb.logit(" cat"), ["gradient_norm", "gradient_x_input"])
    >>> pairs = agreement(both)
    >>> float(pairs.spearman.sel(attribution="gradient_norm", attribution_to="gradient_norm")[0])
    1.0
    """
    dims = getattr(scores, "dims", type(scores).__name__)
    last = "feature" if "feature" in dims else "pos"
    if set(dims) != {"attribution", "batch", last}:
        raise CasebackError(
            f"scores of dimensions {dims}: expected (attribution, batch, pos), as attribute returns them"
        )
    if k is not None and k < 1:
        raise OutOfRange(f"k is {k}: expected at least 1")
    values = torch.from_numpy(np.array(scores.transpose("attribution", "batch", last).values)).double()
    there = ~values.isnan().any(0)
    if special is not None:
        try:
            left_out = torch.as_tensor(np.asarray(special, dtype=float)).bool()
        except (TypeError, ValueError):
            raise CasebackError(f"special is a {type(special).__name__}: expected truth values (batch, pos)") from None
        if left_out.shape != there.shape:
            raise CasebackError(f"special of shape {tuple(left_out.shape)}, expected (batch, pos) {tuple(there.shape)}")
        there &= ~left_out
    n_methods, n_batch, _ = values.shape
    measures = {
        name: torch.full((n_methods, n_methods, n_batch), torch.nan, dtype=torch.float64)
        for name in ("kendall", "spearman", "top_k")
    }
    counts, tops = [], []
    for b in range(n_batch):
        mine = values[:, b, there[b]]
        mine = mine.abs() if absolute else mine
        n = mine.shape[-1]
        top = min(n, -int(-TOP_SHARE * n // 1) if k is None else k)
        counts.append(n)
        tops.append(top)
        if n:
            measures["kendall"][:, :, b] = kendall(mine)
            measures["spearman"][:, :, b] = _correlation(ranked(mine))
            measures["top_k"][:, :, b] = overlap(mine, top)
    names = scores["attribution"].values if "attribution" in scores.coords else [str(i) for i in range(n_methods)]
    coords = {"attribution": names, "attribution_to": names}
    dims = ("attribution", "attribution_to", "batch")
    arrays = {
        name: labelled(x, dims, coords, name=name, technique=agreement, absolute=absolute)
        for name, x in measures.items()
    }
    for name, numbers in {"k": tops, "chance": [t / max(1, n) for t, n in zip(tops, counts, strict=True)]}.items():
        arrays[name] = labelled(numbers, ["batch"], name=name, technique=agreement, absolute=absolute)
    return xr.Dataset(arrays, attrs=arrays["k"].attrs)


def kendall(values: Float[Tensor, "attribution n"]) -> Float[Tensor, "attribution attribution"]:
    """Kendall's tau_b of all pairs of rows; NaN for a row without order.

    Examples
    --------
    >>> kendall(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))[0].tolist()
    [1.0, -1.0]
    """
    n_methods, n = values.shape
    products = torch.zeros(n_methods, n_methods, dtype=torch.float64)
    for rows in torch.arange(n).split(max(1, limit("agreement_signs") // max(1, n_methods * n))):
        signs = (values[:, rows, None] - values[:, None, :]).sign().flatten(1)
        products += signs @ signs.T
    pairs = products.diagonal()
    # whole numbers up to here, so that an attribution agrees with itself, or with its reverse, exactly
    return products / (pairs[:, None] * pairs).sqrt()


def ranked(values: Float[Tensor, "attribution n"]) -> Float[Tensor, "attribution n"]:
    """Ranks from 0 on in each row, ties sharing the mean of theirs.

    Examples
    --------
    >>> ranked(torch.tensor([[5.0, 1.0, 5.0]])).tolist()
    [[1.5, 0.0, 1.5]]
    """
    rows = values.sort(dim=-1).values
    first, last = (
        torch.searchsorted(rows, values.contiguous()),
        torch.searchsorted(rows, values.contiguous(), right=True),
    )
    return (first + last - 1).double() / 2


def overlap(values: Float[Tensor, "attribution n"], k: int) -> Float[Tensor, "attribution attribution"]:
    """The share of each pair's k highest that is the same; ties in order."""
    top: Int[Tensor, "attribution k"] = values.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    marked = torch.zeros_like(values, dtype=torch.float64).scatter_(-1, top, 1.0)
    return marked @ marked.T / k


def _correlation(ranks: Float[Tensor, "attribution n"]) -> Float[Tensor, "attribution attribution"]:
    off = ranks - (ranks.shape[-1] - 1) / 2
    products = off @ off.T
    # halves of whole numbers up to here, as above
    return products / (products.diagonal()[:, None] * products.diagonal()).sqrt()
