"""Dictionaries against properties that are known of every state: a board's squares, a prompt's slots (entry 4.2.22).

    precision_it, recall_it   of "a_i > t max a_i" for each property; coverage: the mean over properties of the best F1
    reconstruction            a property holds where any feature of high precision for it is active: its F1
    supervised                x^ = E x + sum_s (E[x | slot s] - E x): what a dictionary can reach that knows the slots

Karvonen et al. 2024 for boards, Makelov et al. 2024 for slots. Features are chosen on one half and judged on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.dictionaries.measures.given import Dictionaries, StatesLike, named, table_of_codes, whole
from caseback.decode.dictionaries.measures.probing import codes_of
from caseback.decode.probes.setting import Labels
from caseback.decode.probes.splits import numbered
from caseback.errors import ArgumentError, OutOfRange, TokensError
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@technique(
    entry=("4.2.22", "B.11"),
    citation="Karvonen et al. 2024",
    cost="one encoding of the states, and a product of features with properties for each level",
)
def board_measures(
    dictionaries: Dictionaries,
    states: StatesLike,
    board: Any,
    *,
    levels: Sequence[float] = LEVELS,
    precision: float = 0.95,
    train_share: float = 0.5,
) -> xr.Dataset:
    """How well single features classify properties of the board, and how much of it precise ones reconstruct.

    Parameters
    ----------
    dictionaries
        One, or several by name.
    states
        (token, d); the first of them choose features, the others judge.
    board
        (token, property), true or false: such as "there is a knight on f3".
    levels
        From which share of its largest code a feature counts as active.
    precision
        What a feature must reach, on the first tokens, to reconstruct a property; .95 in the paper.
    train_share
        The share of tokens that choose.

    Returns
    -------
    xr.Dataset
        By ``dictionary``: ``coverage``, the mean over properties of the best F1 of a feature at its best level (the
        lowest of equals), chosen on the first tokens and judged on the others; ``reconstruction``, the F1 of a whole
        board at a token, mean over tokens that have one. By ``dictionary`` and ``feature`` (a property): ``f1``,
        ``best_feature``, ``best_level``, ``precision`` of that feature, and ``classifiers``, how many are precise.

    Raises
    ------
    TokensError
        For states of another width, and a board of another number of tokens.
    ArgumentError
        For properties that never hold, or always, among the tokens that choose or judge.
    OutOfRange
        For levels, a share or a precision outside 0 to 1.

    Examples
    --------
    >>> from caseback.decode.dictionaries.measures import neuron_dictionary
    >>> board = torch.rand(400, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    >>> table = board_measures(neuron_dictionary(6), board.float(), board)
    >>> table.coverage.item(), table.reconstruction.item()
    (1.0, 1.0)
    """
    if not levels or not all(0 <= t < 1 for t in levels) or not 0 < precision <= 1 or not 0 < train_share < 1:
        raise OutOfRange(f"levels {levels}, precision {precision}, train_share {train_share}: expected them in 0 to 1")
    several = named(dictionaries)
    x, truth = whole(states), table_of_codes(board, "the board") != 0
    if len(truth) != len(x):
        raise TokensError(f"a board of {len(truth)} tokens for {len(x)} states: expected one row each")
    cut = round(train_share * len(x))
    for half in (truth[:cut], truth[cut:]):
        if not len(half) or bool((half.all(0) | ~half.any(0)).any()):
            raise ArgumentError("a property holds nowhere or everywhere in one half of the tokens: leave it out")
    rows = [_judged(codes_of(one, x), truth.to(one.W_enc.device), cut, levels, precision) for one in several.values()]
    arrays: dict[str, Any] = {}
    for name in rows[0]:
        values = np.stack([row[name].cpu().numpy() for row in rows])
        arrays[name] = ["dictionary", "feature"][: values.ndim], values
    attrs = {"tokens": len(x), "precise_from": precision, "levels": list(levels), "train_share": train_share}
    of = labelled(arrays["coverage"][1], ["dictionary"], technique=board_measures, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(several)}, of)


def _judged(
    codes: Float[Tensor, "token feature"],
    truth: Bool[Tensor, "token property"],
    cut: int,
    levels: Sequence[float],
    precision: float,
) -> dict[str, Tensor]:
    place = float64_device(codes.device)
    codes, truth = codes.to(place), truth.to(place)
    largest = codes[:cut].abs().amax(0)
    first, other = truth[:cut].double(), truth[cut:]
    n, width = truth.shape[1], codes.shape[1]
    best = torch.full((n,), -1.0, dtype=torch.float64, device=codes.device)
    feature, level = torch.zeros(n, dtype=torch.long, device=codes.device), torch.zeros_like(best)
    own_precision = torch.zeros_like(best)
    precise_at = torch.full((width, n), torch.inf, dtype=torch.float64, device=codes.device)
    for t in sorted(levels, reverse=True):  # the lowest level at which a feature is precise stays
        active = (codes[:cut].abs() > t * largest).double()
        hits, count = active.T @ first, active.sum(0)[:, None]
        right = torch.where(count > 0, hits / count.clamp_min(1), 0)
        f1 = 2 * hits / (count + first.sum(0)).clamp_min(1)
        at_this, which = f1.max(0)
        better = at_this >= best
        best, feature = torch.where(better, at_this, best), torch.where(better, which, feature)
        level = torch.where(better, t, level)
        own_precision = torch.where(better, right.gather(0, which[None])[0], own_precision)
        precise_at = torch.where(right >= precision, t, precise_at)
    held = codes[cut:].abs()
    says = held[:, feature] > level * largest[feature]
    f1 = _f1((says & other).sum(0), says.sum(0), other.sum(0))
    board = torch.stack([(held > at * largest).any(1) for at in precise_at.T], 1)  # inf: never active
    some = other.any(1)
    whole = _f1((board & other).sum(1), board.sum(1), other.sum(1))[some].mean()
    classifiers = (precise_at < torch.inf).sum(0)
    return {
        "coverage": f1.mean(), "reconstruction": whole, "f1": f1, "best_feature": feature, "best_level": level,
        "precision": own_precision, "classifiers": classifiers,
    }  # fmt: skip


def _f1(hits: Tensor, guesses: Tensor, true: Tensor) -> Tensor:
    return 2 * hits.double() / (guesses + true).clamp_min(1)


@technique(
    entry=("4.2.22",),
    citation="Makelov et al. 2024",
    cost="means of states by the values of each slot; no model is run",
)
def supervised_dictionary(states: StatesLike, slots: Mapping[str, Labels]) -> xr.Dataset:
    """The dictionary of slots that are known, the ceiling for one that has to find them.

    Parameters
    ----------
    states
        (example, d).
    slots
        By name a value for each example: who is the subject, where it stands.

    Returns
    -------
    xr.Dataset
        ``mean`` (d_model), ``direction`` (feature, d_model) of each value of each slot, E[x | value] - E x, with the
        coordinates ``slot`` and ``value``; ``explained_variance`` (k), of the first slot, the first two and so on.

    Raises
    ------
    CasebackError
        For no slots, another number of values than examples, and states that cannot be read or never vary.

    Examples
    --------
    >>> values = torch.randint(3, (300, 2), generator=torch.Generator().manual_seed(0))
    >>> x = torch.eye(6)[values[:, 0]] + torch.eye(6)[3 + values[:, 1]]
    >>> table = supervised_dictionary(x, {"who": values[:, 0].tolist(), "where": values[:, 1].tolist()})
    >>> bool(table.explained_variance[-1] > 0.99), table.direction.shape
    (True, (6, 6))
    """
    if not slots:
        raise ArgumentError("there are no slots: expected a value for each example, by the slot's name")
    x = in_float64(whole(states))
    mean = x.mean(0)
    centered = x - mean
    total = centered.square().sum()
    if not float(total) > 0:
        raise ArgumentError("all states are the same: nothing is to be explained")
    directions, names, values, explained = [], [], [], []
    left = centered
    for name, given in slots.items():
        distinct, number = numbered(given, f"values of {name!r}", len(x))
        row = torch.from_numpy(number).to(x.device)
        sums = x.new_zeros(len(distinct), x.shape[1]).index_add_(0, row, centered)
        rows = sums / torch.bincount(row)[:, None]
        directions.append(rows)
        names += [name] * len(distinct)
        values += [str(value) for value in distinct]
        left = left - rows[row]
        explained.append(float(1 - left.square().sum() / total))
    coords = {"slot": ("feature", names), "value": ("feature", values)}
    table = labelled(torch.cat(directions), ["feature", "d_model"], coords, technique=supervised_dictionary)
    arrays = {"direction": table, "mean": ("d_model", mean.cpu().numpy()), "explained_variance": ("k", explained)}
    return xr.Dataset(arrays, {"k": np.arange(1, len(explained) + 1)}, table.attrs)
