"""How features go wrong although all is reconstructed: absorption and hedging, on planted states.

    absorption   parent and child are both active, the parent's feature is silent, and others write the parent's part
                 in its stead: P(absorbed | parent and child), beside P(silent | parent without any child)
    hedging      a narrow dictionary mixes a feature with the one that often comes with it: what its row has along
                 that other direction, beyond what the true direction has along it

A sparsity penalty rewards absorption: one active feature in place of two (Chanin et al. 2024). Too few features make
for hedging, more of them the smaller the dictionary is (Chanin et al. 2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.decoder_rows import unit_rows
from caseback.decode.dictionaries.measures.given import Dictionaries, expect_widths, named, rows_in_hand
from caseback.decode.dictionaries.measures.planted import Planted
from caseback.decode.dictionaries.measures.recovery import matched
from caseback.errors import ArgumentError, OutOfRange
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(
    entry=("4.2.15", "B.12"),
    citation="Chanin et al. 2024",
    cost="one encoding of the states; for each parent one product of codes and rows along its direction",
)
def planted_absorption(dictionaries: Dictionaries, planted: Planted, *, least_share: float = 0.4) -> xr.Dataset:
    """How often a parent's feature is silent where a child is active, and others write its part.

    Parameters
    ----------
    dictionaries
        One, or several by name.
    planted
        As ``planted_features(..., parents=...)`` gives it.
    least_share
        A token is absorbed where another feature alone writes at least this share of what there is of the parent, as
        in the benchmark for first letters.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and true ``feature``, for parents, NaN for others: ``absorption`` where parent and a child are
        active, ``silent`` where the parent is and no child; ``feature`` numbers of truths, ``match`` the feature that
        was looked at. By ``dictionary``: ``absorption_rate`` and ``silent_rate``, over all such tokens.

    Raises
    ------
    ArgumentError
        Where nothing has a parent.
    OutOfRange
        For a share outside 0 to 1.
    TokensError
        For dictionaries of another width.

    Notes
    -----
    Entries 4.2.15 and B.12. A parent's feature is the one that ``recovery_measures`` matches to its direction.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Standard
    >>> from caseback.decode.dictionaries.measures import planted_features
    >>> truth = planted_features(4, 2, 500, probabilities=[0.4, 0.5], parents=[-1, 0])
    >>> one = Standard(4, 2, dtype=torch.float64)
    >>> parent, child = truth.directions
    >>> one.W_enc.data = torch.stack([parent - 2 * child, child])  # the parent's feature is off where the child is on
    >>> one.W_dec.data = torch.stack([parent, parent + child])
    >>> planted_absorption(one, truth).absorption_rate.item()
    1.0
    """
    if not 0 <= least_share <= 1:
        raise OutOfRange(f"least_share is {least_share}: expected 0 to 1")
    parents = planted.parents[planted.parents >= 0].unique()
    if not len(parents):
        raise ArgumentError("no feature has a parent: expected planted_features(..., parents=[-1, 0, 0])")
    several = named(dictionaries)
    expect_widths(several, *[planted.states.shape[1]] * 2)
    n = len(planted.directions)
    arrays = {name: np.full((len(several), n), np.nan) for name in ("absorption", "silent")}
    matches = np.full((len(several), n), -1)
    rates = {name: np.full(len(several), np.nan) for name in ("absorption_rate", "silent_rate")}
    for row, one in enumerate(several.values()):
        match, _ = matched(one.W_dec, planted.directions)
        counts = _absorbed(one, planted, parents, match[parents], least_share).numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            arrays["absorption"][row, parents.numpy()] = counts[:, 0] / counts[:, 1]
            arrays["silent"][row, parents.numpy()] = counts[:, 2] / counts[:, 3]
            total = counts.sum(0)
            rates["absorption_rate"][row], rates["silent_rate"][row] = total[0] / total[1], total[2] / total[3]
        matches[row] = match.numpy()
    data: dict[str, Any] = {name: (["dictionary", "feature"], value) for name, value in arrays.items()}
    data |= {"match": (["dictionary", "feature"], matches)}
    data |= {name: (["dictionary"], value) for name, value in rates.items()}
    attrs = {"tokens": len(planted.states), "least_share": least_share}
    of = labelled(rates["silent_rate"], ["dictionary"], technique=planted_absorption, **attrs).attrs
    return xr.Dataset(data, {"dictionary": list(several)}, of)


@torch.no_grad()
def _absorbed(dictionary: Dictionary, planted: Planted, parents: Tensor, match: Tensor, least: float) -> Tensor:
    """For each parent: absorbed tokens, tokens with a child, silent tokens, tokens without a child."""
    device = float64_device(dictionary.W_enc.device)
    along = (in_float64(dictionary.W_dec) @ planted.directions[parents].T.to(device)).T  # (parent, feature)
    has_child = torch.stack([planted.firing[:, planted.parents == p].any(1) for p in parents], 1).to(device)
    amount = planted.codes[:, parents].to(device)
    counts = torch.zeros(len(parents), 4, dtype=torch.float64)
    at = torch.arange(len(parents), device=device)
    own = match.to(device).clamp_min(0)
    exists = (match >= 0).to(device)
    step = rows_in_hand(dictionary)
    for x, child, there in zip(
        planted.states.to(dictionary.W_enc).split(step), has_child.split(step), amount.split(step), strict=True
    ):
        codes = in_float64(dictionary.encode(x))
        silent = ~((codes[:, own] != 0) & exists)
        others = along.clone()
        others[at, own] = torch.where(exists, 0, others[at, own])
        instead = torch.stack([(codes * row).amax(1) for row in others], 1) >= least * there
        present = there != 0
        kinds = (present & child & silent & instead, present & child, present & ~child & silent, present & ~child)
        counts += torch.stack([kind.sum(0) for kind in kinds], 1).cpu().double()
    return counts


@technique(
    entry=("4.2.15", "B.12"),
    citation="Chanin et al. 2025",
    cost="true features x true features correlations and one linear assignment; nothing is encoded",
)
def hedging(dictionaries: Dictionaries, planted: Planted) -> xr.Dataset:
    """How much of its companion each feature has taken in.

    Parameters
    ----------
    dictionaries
        One, or several by name; narrow ones hedge most.
    planted
        As ``planted_features`` gives it, with ``correlation`` or ``parents``.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and true ``feature``: ``hedged``, the part of its match along the companion's direction beyond
        what the truth has there, with the sign of their correlation: 0 for a clean feature, .7 for one that is half its
        companion; NaN without a match. By true ``feature``: ``companion``, whose firing correlates most with its own,
        and ``correlation``. By ``dictionary``: ``hedging``, the mean over matched features.

    Raises
    ------
    ArgumentError
        For a single true feature, or states in which fewer than two are sometimes active.
    TokensError
        For dictionaries of another width.

    Notes
    -----
    Entries 4.2.15 and B.12. With u the truth, v its companion's direction and d the matched row, all of norm 1:
    (d - (d u) u) v, over the length of what v has beside u.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Standard
    >>> from caseback.decode.dictionaries.measures import planted_features
    >>> truth = planted_features(4, 2, 500, l0=0.6, group_size=2, correlation=0.8)
    >>> narrow = Standard(4, 1, dtype=torch.float64)
    >>> narrow.W_dec.data = truth.directions.sum(0, keepdim=True)
    >>> round(hedging(narrow, truth).hedging.item(), 4)
    0.7071
    """
    several = named(dictionaries)
    expect_widths(several, *[planted.states.shape[1]] * 2)
    if len(planted.directions) < 2 or int((planted.firing.double().std(0) > 0).sum()) < 2:
        raise ArgumentError("a feature needs a companion: expected two that are sometimes active, or more")
    fires = planted.firing.double()
    fires = fires - fires.mean(0)
    together = unit_rows(fires.T) @ unit_rows(fires.T).T
    together.fill_diagonal_(0)
    companion = together.abs().argmax(1)
    correlation = together.gather(1, companion[:, None])[:, 0]
    rows = np.stack([_hedged(one, planted, companion, correlation) for one in several.values()])
    arrays: dict[str, Any] = {
        "hedged": (["dictionary", "feature"], rows),
        "companion": (["feature"], companion.numpy()),
        "correlation": (["feature"], correlation.numpy()),
        "hedging": (["dictionary"], np.nanmean(rows, axis=1)),
    }
    attrs = labelled(rows, ["dictionary", "feature"], technique=hedging, tokens=len(planted.states)).attrs
    return xr.Dataset(arrays, {"dictionary": list(several)}, attrs)


def _hedged(dictionary: Dictionary, planted: Planted, companion: Tensor, correlation: Tensor) -> np.ndarray:
    match, _ = matched(dictionary.W_dec, planted.directions)
    d = unit_rows(dictionary.W_dec).cpu()[match.clamp_min(0)]
    u = planted.directions
    v = u[companion]
    beside = unit_rows(v - (v * u).sum(1, keepdim=True) * u)
    hedged = (d * beside).sum(1) * correlation.sign()
    return torch.where(match >= 0, hedged, torch.nan).numpy()
