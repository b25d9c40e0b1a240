"""Taking a label's features out: does its probe fail, and no other's? For parity with SAEBench only.

    features of c     the n with the largest (E a_i | c - E a_i | not c) (d_i w_c),   w_c the probe of c
    without them      x - sum over these of a_i d_i
    TPP               mean over c of: what c's probe loses without c's features - what others' probes lose on average
    SCR               (A_without - A_biased) / (A_oracle - A_biased): a probe that was trained where two labels always
                      agree, judged on the one where they need not, without features of the other

In a public audit (arXiv 2605.18229) both failed at their canonical settings and did not order dictionaries: they are
here so that published numbers can be compared. Rank by planted truth, ``probe_features`` and ``absorption`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.given import Dictionaries, StatesLike, expect_widths, named, whole
from caseback.decode.dictionaries.measures.label_probes import Probe, classes_of, held_out_tokens, probe_of
from caseback.decode.dictionaries.measures.probing import codes_of
from caseback.decode.probes.setting import Labels
from caseback.errors import CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(
    entry=("4.2.22", "B.11"),
    citation="Marks et al. 2024; Karvonen et al. 2025",
    cost="one encoding of the states, a probe a class, and products of a few features' codes",
)
def targeted_probe_perturbation(
    dictionaries: Dictionaries,
    states: StatesLike,
    labels: Labels,
    *,
    n_features: Sequence[int] = (2, 5, 10, 20),
    held_out: float = 0.2,
    seed: int = 0,
) -> xr.Dataset:
    """TPP: what each class's probe loses without its features, beyond what other probes lose. For parity only.

    Parameters
    ----------
    dictionaries
        One, or several by name; they read the same states.
    states
        (token, d).
    labels
        A class for each token.
    n_features
        How many are taken out, largest effect first; of SAEBench's, the smaller ones.
    held_out
        The share of each class that is judged.
    seed
        Same seed, same result. It draws what is held out.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and ``k``, the number taken out: ``tpp``, ``intended`` what the class's own probe loses of its
        balanced accuracy, ``unintended`` what others lose. By ``group``, the class: ``accuracy`` of its probe.

    Raises
    ------
    CasebackError
        As ``absorption``.
    OutOfRange
        For no features, or more than there are.

    Notes
    -----
    A public audit found that TPP should not be used to compare dictionaries (arXiv 2605.18229).

    Examples
    --------
    >>> from caseback.decode.dictionaries.measures import neuron_dictionary
    >>> y = torch.arange(300) % 3
    >>> noise = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    >>> states = torch.nn.functional.one_hot(y, 6) + 0.1 * noise
    >>> table = targeted_probe_perturbation(neuron_dictionary(6), states, y.tolist(), n_features=[1])
    >>> bool(table.intended[0, 0] > 0.4), bool(table.unintended[0, 0] < 0.1)
    (True, True)
    """
    several, x = named(dictionaries), whole(states)
    expect_widths(several, x.shape[1], x.shape[1])
    _expect_counts(n_features, several)
    classes, y = classes_of(labels, len(x))
    held = held_out_tokens(y, held_out, seed)
    states_ = x.cpu().double().numpy()
    probes = [probe_of(states_[~held], y[~held] == c) for c in range(len(classes))]
    cases = [y[held] == c for c in range(len(classes))]
    clean = np.array([_accuracy(probe.sees(states_[held]), case) for probe, case in zip(probes, cases, strict=True)])
    lost = np.zeros((len(several), len(n_features), len(classes), len(classes)))
    for row, one in enumerate(several.values()):
        codes, rows = _codes_and_rows(one, x)
        for c, probe in enumerate(probes):
            order = _most_effect(codes, rows, probe, y == c, ~held)
            for column, n in enumerate(n_features):
                without = _without(states_[held], codes[held], rows, order[:n])
                own = [_accuracy(p.sees(without), case) for p, case in zip(probes, cases, strict=True)]
                lost[row, column, c] = clean - own
    same = np.eye(len(classes), dtype=bool)
    intended, unintended = lost[..., same].mean(-1), lost[..., ~same].mean(-1)
    dims = ["dictionary", "k"]
    arrays: dict[str, Any] = {"tpp": (dims, intended - unintended), "intended": (dims, intended)}
    arrays |= {"unintended": (dims, unintended), "accuracy": (["group"], clean)}
    attrs = {"held_out": held_out, "seed": seed, "states": len(x)}
    of = labelled(intended, dims, technique=targeted_probe_perturbation, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(several), "k": list(n_features), "group": classes}, of)


@technique(
    entry=("4.2.22", "B.11"),
    citation="Marks et al. 2024; Karvonen et al. 2025",
    cost="one encoding of the states, three probes, and products of a few features' codes",
)
def spurious_correlation_removal(
    dictionaries: Dictionaries,
    states: StatesLike,
    labels: Labels,
    spurious: Labels,
    *,
    n_features: Sequence[int] = (2, 5, 10, 20),
    held_out: float = 0.2,
    seed: int = 0,
) -> xr.Dataset:
    """SCR: how much of a biased probe's accuracy comes back without the other label's features. For parity only.

    Parameters
    ----------
    dictionaries
        One, or several by name; they read the same states.
    states
        (token, d).
    labels, spurious
        Two classes each, for each token: what is to be read, and what goes with it where the biased probe is trained.
    n_features
        How many features of ``spurious`` are taken out.
    held_out
        The share of each of the four combinations that is judged.
    seed
        Same seed, same result. It draws what is held out.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and ``k``, the number taken out: ``scr`` and ``accuracy``, the mean over the four
        combinations. Attributes: ``biased`` and ``oracle``, the accuracies that it lies between; ``scr`` is NaN where
        these are the same.

    Raises
    ------
    CasebackError
        As ``absorption``; for more than two classes, or a combination with fewer than 4 tokens.
    OutOfRange
        For no features, or more than there are.

    Notes
    -----
    A public audit found that SCR should not be used to compare dictionaries (arXiv 2605.18229).

    Examples
    --------
    >>> from caseback.decode.dictionaries.measures import neuron_dictionary
    >>> y, s = torch.arange(800) % 2, torch.arange(800) // 2 % 2
    >>> states = torch.stack([y, 3 * s], 1) + 0.3 * torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    >>> table = spurious_correlation_removal(neuron_dictionary(2), states, y.tolist(), s.tolist(), n_features=[1])
    >>> table.attrs["biased"] < 0.7 < table.attrs["oracle"]
    True
    """
    several, x = named(dictionaries), whole(states)
    expect_widths(several, x.shape[1], x.shape[1])
    _expect_counts(n_features, several)
    both = [classes_of(given, len(x), what) for given, what in ((labels, "labels"), (spurious, "spurious labels"))]
    if any(len(classes) > 2 for classes, _ in both):
        raise CasebackError("labels of more than two classes: expected two of each")
    y, s = (numbers for _, numbers in both)
    combined = 2 * y + s
    if np.bincount(combined, minlength=4).min() < 4:
        raise CasebackError("a combination of the two labels has fewer than 4 tokens: expected 4 of each at least")
    held = held_out_tokens(combined, held_out, seed)
    states_ = x.cpu().double().numpy()
    agree = ~held & (y == s)
    biased, oracle, other = (
        probe_of(states_[some], target[some] == 1) for some, target in ((agree, y), (~held, y), (~held, s))
    )

    def accuracy(probe: Probe, at: np.ndarray) -> float:
        right = probe.sees(at) == (y[held] == 1)
        return float(np.mean([right[combined[held] == each].mean() for each in range(4)]))

    low, high = accuracy(biased, states_[held]), accuracy(oracle, states_[held])
    reached = np.zeros((len(several), len(n_features)))
    for row, one in enumerate(several.values()):
        codes, rows = _codes_and_rows(one, x)
        order = _most_effect(codes, rows, other, s == 1, ~held)
        for column, n in enumerate(n_features):
            without = _without(states_[held], codes[held], rows, order[:n])
            reached[row, column] = accuracy(biased, without)
    scores = (reached - low) / (high - low) if high != low else np.full_like(reached, np.nan)
    dims = ["dictionary", "k"]
    attrs = {"biased": low, "oracle": high, "held_out": held_out, "seed": seed, "states": len(x)}
    of = labelled(scores, dims, technique=spurious_correlation_removal, **attrs).attrs
    coords = {"dictionary": list(several), "k": list(n_features)}
    return xr.Dataset({"scr": (dims, scores), "accuracy": (dims, reached)}, coords, of)


def _codes_and_rows(dictionary: Dictionary, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    codes = codes_of(dictionary, x.to(dictionary.W_enc)).cpu().double().numpy()
    rows = (dictionary.W_dec / dictionary.out_scale).detach().cpu().double().numpy()
    return codes, rows


def _most_effect(codes: np.ndarray, rows: np.ndarray, probe: Probe, case: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Features by how much they move a probe towards a class where it is, beyond where it is not."""
    difference = codes[known & case].mean(0) - codes[known & ~case].mean(0)
    return np.argsort(-difference * (rows @ probe.w), kind="stable")


def _without(states: np.ndarray, codes: np.ndarray, rows: np.ndarray, features: np.ndarray) -> np.ndarray:
    """States less what some features write there."""
    return states - codes[:, features] @ rows[features]


def _accuracy(sees: np.ndarray, case: np.ndarray) -> float:
    """Balanced over both kinds."""
    return float((sees[case].mean() + (~sees[~case]).mean()) / 2)


def _expect_counts(n_features: Sequence[int], several: dict[str, Dictionary]) -> None:
    fewest = min(one.n_features for one in several.values())
    if not len(n_features) or min(n_features) < 1 or max(n_features) > fewest:
        raise OutOfRange(f"n_features {list(n_features)}: expected numbers from 1 to {fewest}")
