"""What kind of effect a feature has on the next token, by the shape of its logits alone (entry 5.3.8).

    v = d_k W_U,  over the vocabulary, its mean taken off            skew E z^3,  kurtosis E z^4,  z = v / std v

    promoting     a long upper tail: few tokens rise              kurtosis high, the tail's mass above
    suppressing   a long lower tail: few tokens fall              kurtosis high, the tail's mass below
    partition     two sets apart: both tails long, or v has two humps and no tails (kurtosis near 1)
    other         like a random direction: no shape to speak of   kurtosis near 3

The final norm's gain is part of W_U. A feature's effect through later layers is not seen. Bloom & Lin 2024 read classes
off skew and kurtosis; Gurnee et al. 2024 saw the same three in neurons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.vocabulary.weights.named_matrices import finite, table_of, weights_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

CLASSES = ("promoting", "suppressing", "partition", "other")
TAIL = 3.0
"""Standard deviations from which a token is in a tail."""


@technique(
    entry=("5.3.8",),
    citation="Bloom and Lin 2024; Gurnee et al. 2024",
    cost="features x unembedding",
)
def feature_classes(
    model: Model,
    features: Dictionary | Float[Tensor, "feature d_model"],
    *,
    folded: bool = True,
    long_tail: float = 6.0,
    two_humps: float = 2.0,
    one_sided: float = 0.75,
    n_random: int = 256,
    seed: int = 0,
) -> xr.Dataset:
    """Sort features by what they do to the next token directly.

    Parameters
    ----------
    model
        The model.
    features
        A dictionary, or rows that are written to the stream (feature, d_model).
    folded
        Multiply by the final norm's gain too.
    long_tail
        The kurtosis from which tails are long; a Gaussian's is 3.
    two_humps
        The kurtosis up to which there are two humps; 1 is two points, 1.8 a flat distribution.
    one_sided
        The share of the tails' mass from which a feature is one-sided.
    n_random
        Random directions that are sorted beside them; 0 for none.
    seed
        Same seed, same result. It draws the random directions.

    Returns
    -------
    xr.Dataset
        By ``feature``: ``skew``, ``kurtosis`` (not its excess), ``std`` in logits of a stream whose final norm divides
        by 1, ``positive_mass`` and ``negative_mass``, the shares of E z^2 that are more than 3 deviations above and
        below the mean, and ``kind``, one of ``"promoting"``, ``"suppressing"``, ``"partition"``, ``"other"``. The
        attributes ``share_KIND`` and ``random_KIND`` say how many features and random directions are of each.

    Raises
    ------
    CasebackError
        For rows of another width than the model's, or that are not finite.
    OutOfRange
        For thresholds that contradict each other.

    Notes
    -----
    Entry 5.3.8. Classes are a reading aid: where random directions have long tails too, as the unembedding itself may,
    raise ``long_tail`` above theirs.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> rows = torch.linalg.pinv(model.weights.folded().W_U)
    >>> table = feature_classes(model, torch.stack([rows[5] - rows.mean(0), -rows[5] + rows.mean(0)]), long_tail=4)
    >>> [bool(skew > 0) for skew in table.skew]
    [True, False]
    """
    if not 1 <= two_humps < long_tail or not 0.5 <= one_sided <= 1 or n_random < 0:
        raise OutOfRange(
            f"two_humps {two_humps}, long_tail {long_tail}, one_sided {one_sided}, n_random {n_random}: expected "
            "1 <= two_humps < long_tail, one_sided from .5 to 1, no negative number"
        )
    rows = features.W_dec if isinstance(features, Dictionary) else features
    if rows.ndim != 2 or rows.shape[1] != model.d_model or not len(rows):
        raise CasebackError(f"features of shape {tuple(rows.shape)}: expected (feature, {model.d_model})")
    rows = finite(rows.detach(), "features")
    table = table_of(weights_of(model, folded), "out")
    draw = torch.Generator().manual_seed(seed)
    chance = torch.randn(n_random, model.d_model, generator=draw).to(rows)
    shapes, random = (_shapes(some, table) for some in (rows, chance))
    kinds, random_kinds = (_kinds(some, long_tail, two_humps, one_sided) for some in (shapes, random))
    thresholds = {"folded": folded, "long_tail": long_tail, "two_humps": two_humps, "one_sided": one_sided}
    attrs: dict[str, Any] = thresholds | {f"share_{kind}": float((kinds == kind).mean()) for kind in CLASSES}
    if n_random:
        attrs |= {f"random_{kind}": float((random_kinds == kind).mean()) for kind in CLASSES}
        attrs |= {"n_random": n_random, "seed": seed}
    arrays: dict[str, Any] = {name: ("feature", value) for name, value in shapes.items()} | {"kind": ("feature", kinds)}
    of = labelled(kinds, ["feature"], technique=feature_classes, model=model, **attrs).attrs
    return xr.Dataset(arrays, attrs=of)


@torch.no_grad()
def _shapes(rows: Tensor, table: Float[Tensor, "d_model vocab"]) -> dict[str, np.ndarray]:
    """Moments and tails of each row's logits, some rows at a time."""
    pieces: list[Tensor] = [torch.zeros(0, 5, dtype=torch.float64)]
    for some in rows.split(max(1, limit("weight_products", rows.device) // table.shape[1])):
        v = in_float64(some.to(table) @ table)
        v = v - v.mean(1, keepdim=True)
        std = v.square().mean(1, keepdim=True).sqrt()
        z = v / torch.where(std > 0, std, 1)
        square = z.square()
        tails = [torch.where(side, square, 0).mean(1) for side in (z > TAIL, z < -TAIL)]
        pieces.append(torch.stack([(square * z).mean(1), square.square().mean(1), std[:, 0], *tails], 1))
    numbers = torch.cat([piece.cpu() for piece in pieces]).numpy().T
    return dict(zip(("skew", "kurtosis", "std", "positive_mass", "negative_mass"), numbers, strict=True))


def _kinds(shapes: dict[str, np.ndarray], long_tail: float, two_humps: float, one_sided: float) -> np.ndarray:
    up, down = shapes["positive_mass"], shapes["negative_mass"]
    above = np.divide(up, up + down, out=np.full_like(up, 0.5), where=up + down > 0)
    long = shapes["kurtosis"] >= long_tail
    split = (shapes["kurtosis"] <= two_humps) & (shapes["std"] > 0)
    names = [long & (above >= one_sided), long & (above <= 1 - one_sided), long | split]
    return np.select(names, CLASSES[:3], CLASSES[3])
