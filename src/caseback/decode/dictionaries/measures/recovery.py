"""Which of the true features a dictionary has: by direction and by firing, one to one.

    best_j = max_i cos(d_i, u_j)                              their mean: MMCS
    match: features i(j), one for each truth j, with the largest sum of cosines        (linear assignment)
    F1_j, MCC_j of firing: of "i(j) is active" as a prediction of "j is active"

A feature may be the best of several truths; matched ones are not. Explained variance says nothing of either.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.decoder_rows import best_cosines, unit_rows
from caseback.decode.dictionaries.measures.given import Dictionaries, expect_widths, named, rows_in_hand
from caseback.decode.dictionaries.measures.planted import Planted
from caseback.errors import OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(
    entry=("4.2.15", "B.11"),
    citation="Sharkey et al. 2022; Chanin and Garriga-Alonso 2026",
    cost="features x true features cosines, one linear assignment, and one encoding of the states",
)
def recovery_measures(
    dictionaries: Dictionaries, planted: Planted, *, recovered_above: float = 0.9, split_above: float = 0.8
) -> xr.Dataset:
    """Compare dictionaries with the features that their states were made of.

    Parameters
    ----------
    dictionaries
        One, or several by name.
    planted
        As ``planted_features`` gives it: other states than were trained on, of the same directions.
    recovered_above
        A true feature is recovered where its match has a cosine above it.
    split_above
        A feature is one more copy, or part, of the truth that it is nearest to where their cosine is above it.

    Returns
    -------
    xr.Dataset
        By ``dictionary``: ``mmcs``, ``matched_cosine`` and ``recovered`` (a share of the true features), ``f1`` and
        ``mcc``, the means over those. By ``dictionary`` and true ``feature``: ``best_cosine``, ``match`` (-1 where
        there are fewer features than truths), ``cosine`` with it, ``feature_f1`` and ``feature_mcc`` of its firing, 0
        where either never fires, and ``parts``, how many features are nearest to it and above ``split_above``: 0 where
        it is absent, 2 or more where it is split.

    Raises
    ------
    TokensError
        For dictionaries of another width than the states.
    OutOfRange
        For cosines outside -1 to 1.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Standard
    >>> from caseback.decode.dictionaries.measures import planted_features
    >>> truth = planted_features(12, 8, 500, l0=2)
    >>> one = Standard(12, 8, dtype=torch.float64)
    >>> one.W_enc.data = one.W_dec.data = truth.directions
    >>> one.b_enc.data -= 0.005  # what rounding leaves of inactive ones
    >>> table = recovery_measures(one, truth)
    >>> round(table.mmcs.item(), 9), table.f1.item()
    (1.0, 1.0)
    """
    for cosine in (recovered_above, split_above):
        if not -1 <= cosine <= 1:
            raise OutOfRange(f"recovered_above {recovered_above}, split_above {split_above}: expected cosines, -1 to 1")
    several = named(dictionaries)
    width = planted.states.shape[1]
    expect_widths(several, width, width)
    rows = [_compared(one, planted, split_above) for one in several.values()]
    by_truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    means = {
        "mmcs": by_truth["best_cosine"].mean(1),
        "matched_cosine": by_truth["cosine"].mean(1),
        "recovered": (by_truth["cosine"] > recovered_above).mean(1),
        "f1": by_truth["feature_f1"].mean(1),
        "mcc": by_truth["feature_mcc"].mean(1),
    }
    arrays: dict[str, Any] = {name: (["dictionary"], value) for name, value in means.items()}
    arrays |= {name: (["dictionary", "feature"], value) for name, value in by_truth.items()}
    attrs = {"tokens": len(planted.states), "recovered_above": recovered_above, "split_above": split_above}
    of = labelled(means["mmcs"], ["dictionary"], technique=recovery_measures, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(several)}, of)


def _compared(dictionary: Dictionary, planted: Planted, split_above: float) -> dict[str, np.ndarray]:
    best, _ = best_cosines(planted.directions, dictionary.W_dec)
    nearest, truth = best_cosines(dictionary.W_dec, planted.directions)
    n = len(planted.directions)
    parts = torch.bincount(truth[nearest > split_above], minlength=n)
    match, cosine = matched(dictionary.W_dec, planted.directions)
    f1, mcc = agreement_of_firing(*confusion(dictionary, planted, match), len(planted.states))
    numbers = {"best_cosine": best, "match": match, "cosine": cosine}
    numbers |= {"feature_f1": f1, "feature_mcc": mcc, "parts": parts}
    return {name: value.cpu().numpy() for name, value in numbers.items()}


def matched(
    rows: Float[Tensor, "feature d"], directions: Float[Tensor, "truth d"]
) -> tuple[Int[Tensor, " truth"], Float[Tensor, " truth"]]:
    """A feature of its own for each true one, so that cosines have the largest sum, and its cosine.

    Where there are fewer features than truths, those that get none have -1 and the cosine 0.

    Examples
    --------
    >>> matched(torch.eye(3)[[2, 0]], torch.eye(3))[0].tolist()
    [1, -1, 0]
    """
    cosines = unit_rows(directions) @ unit_rows(rows).T
    truth, feature = linear_sum_assignment(cosines.cpu().numpy(), maximize=True)
    match = torch.full((len(directions),), -1)
    cosine = torch.zeros(len(directions), dtype=torch.float64)
    match[truth] = torch.from_numpy(feature)
    cosine[truth] = cosines.cpu()[truth, feature]
    return match, cosine


@torch.no_grad()
def confusion(
    dictionary: Dictionary, planted: Planted, features: Int[Tensor, " truth"]
) -> tuple[Tensor, Tensor, Tensor]:
    """At how many tokens a feature for each truth is active together with it, at how many it is, and the truth."""
    wanted = planted.firing.to(dictionary.W_enc.device)
    both = torch.zeros(len(features), dtype=torch.long, device=wanted.device)
    active = torch.zeros_like(both)
    columns = features.clamp_min(0).to(wanted.device)
    exists = (features >= 0).to(wanted.device)
    step = rows_in_hand(dictionary)
    for x, truth in zip(planted.states.to(dictionary.W_enc).split(step), wanted.split(step), strict=True):
        fires = (dictionary.encode(x) != 0)[:, columns] & exists
        both += (fires & truth).sum(0)
        active += fires.sum(0)
    return both.cpu().double(), active.cpu().double(), wanted.sum(0).cpu().double()


def agreement_of_firing(both: Tensor, active: Tensor, truth: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """F1 and Matthews' correlation of two counts and that of both together; 0 where they have no value.

    Examples
    --------
    >>> ones = torch.ones(1, dtype=torch.float64)
    >>> f1, mcc = agreement_of_firing(2 * ones, 3 * ones, 2 * ones, 10)
    >>> round(float(f1), 6), round(float(mcc), 6)
    (0.8, 0.763763)
    """
    f1 = torch.where(active + truth > 0, 2 * both / (active + truth).clamp_min(1), 0)
    spread = (active * (n - active) * truth * (n - truth)).sqrt()
    mcc = torch.where(spread > 0, (n * both - active * truth) / spread.clamp_min(1e-300), 0)
    return f1, mcc
