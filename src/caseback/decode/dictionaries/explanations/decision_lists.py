"""Short lists of conditions that say where features fire: fitted for all features at once, and judged on other text.

A list calls a token if one of its conditions holds there, and a window if it calls one of its tokens. Conditions are
added one by one, each time the one c with the largest

    gain = |firing tokens with c, not yet called| / |firing tokens|
           - |quiet windows with c, not yet called| / |quiet windows|

until none gains ``least_gain``: a rule that names few tokens of many firings, or rings in many windows in which the
feature is silent, is no explanation.

    detection   (P(called | window in which the feature fires) + P(not called | quiet window)) / 2
    fuzzing     (P(called | token that fires) + P(not called | other token of a window in which it fires)) / 2

Both are expectations over all windows and tokens, not over a sample of them: 1/2 is chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from caseback.jobs.budget import limit

Sparse = Any
"""A matrix of scipy, whose annotations know neither shapes nor products."""

_SET_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Part:
    """Tokens of some windows, with what holds and what fires there.

    Attributes
    ----------
    holds
        (token, condition).
    codes
        (token, feature), above 0 where a feature fires.
    starts
        The first token of each window.
    """

    holds: Sparse
    codes: Sparse
    starts: np.ndarray

    @property
    def in_window(self) -> Sparse:
        """(window, token)."""
        n = self.holds.shape[0]
        window = np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, n)))
        return sparse.csr_matrix((np.ones(n, np.int32), (window, np.arange(n))))


def fit_lists(part: Part, rules: int, least_gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Lists of conditions, (feature, rule), -1 where there are no more, and what each gained."""
    windows = part.in_window
    with_condition = _bits(windows @ part.holds)
    fires: Sparse = sparse.csr_matrix(part.codes > 0, dtype=np.int32)
    taken = _bits(windows @ fires)  # windows that are not quiet, or called already
    n_fires = np.asarray(fires.sum(0)).ravel()
    n_quiet = len(part.starts) - _SET_BITS[taken].sum(1, dtype=np.int64)
    chosen = np.full((fires.shape[1], rules), -1)
    gains = np.zeros((fires.shape[1], rules))
    # the product of a block has at most as many entries as its firings have conditions
    entries = n_fires * max(1, part.holds.nnz // max(1, part.holds.shape[0]))
    for some in _blocks(entries, limit("feature_scores")):
        left: Sparse = sparse.csr_matrix(fires[:, some])
        for rule in range(rules):
            best, gain = _best(part, left, with_condition, taken[some], n_fires[some], n_quiet[some], least_gain)
            there = np.flatnonzero(best >= 0)
            if not len(there):
                break
            chosen[some, rule], gains[some, rule] = best, gain
            taken[some][there] |= with_condition[best[there]]
            left = sparse.csr_matrix(left - left.multiply(_columns(part.holds, best)))
            left.eliminate_zeros()
    return chosen, gains


def _best(
    part: Part,
    left: Sparse,
    with_condition: np.ndarray,
    taken: np.ndarray,
    n_fires: np.ndarray,
    n_quiet: np.ndarray,
    least_gain: float,
) -> tuple[np.ndarray, np.ndarray]:
    """For each feature the condition that gains most, -1 where none gains enough, and its gain."""
    named = (part.holds.T @ left).tocoo()
    recall = named.data / n_fires[named.col]
    wide = recall >= least_gain  # no other can gain as much
    condition, feature, recall = named.row[wide], named.col[wide], recall[wide]
    called = np.zeros(len(condition), dtype=np.int64)
    step = max(1, limit("feature_scores") // max(1, with_condition.shape[1]))
    for first in range(0, len(condition), step):
        at = slice(first, first + step)
        quiet = with_condition[condition[at]] & ~taken[feature[at]]
        called[at] = _SET_BITS[quiet].sum(1, dtype=np.int64)
    gain = recall - called / np.maximum(n_quiet[feature], 1)
    order = np.lexsort((condition, -gain, feature))
    first_of, own = np.unique(feature[order], return_index=True)
    best, gains = np.full(left.shape[1], -1), np.zeros(left.shape[1])
    best[first_of], gains[first_of] = condition[order][own], gain[order][own]
    enough = gains >= least_gain
    return np.where(enough, best, -1), np.where(enough, gains, 0.0)


@dataclass(frozen=True)
class Scores:
    """How well lists say where features fire, each (feature), NaN where there is nothing to tell apart.

    Attributes
    ----------
    detection, near_detection
        Balanced accuracy against all quiet windows, and against those in which a near feature fires.
    fuzzing
        Of tokens in windows in which the feature fires.
    called
        (feature, bin), of the windows in which it fires the share that is called, the strongest first.
    windows
        In how many it fires.
    """

    detection: np.ndarray
    near_detection: np.ndarray
    fuzzing: np.ndarray
    called: np.ndarray
    windows: np.ndarray


def judge_lists(part: Part, chosen: np.ndarray, near: np.ndarray, bins: int) -> Scores:
    """Put lists to the test on tokens that they were not fitted on.

    Parameters
    ----------
    part
        The tokens.
    chosen
        (feature, rule), as ``fit_lists`` gives them.
    near
        (feature, k), features whose firing makes a quiet window a hard one; -1 for none.
    bins
        Windows in which a feature fires are taken apart by strength, as many in each.
    """
    n_tokens, n_features = part.codes.shape
    fires_in: Sparse = sparse.csc_matrix(part.in_window @ (part.codes > 0).astype(np.int32))
    columns: list[tuple[np.ndarray, ...]] = []
    for some in _blocks(np.full(n_features, max(1, n_tokens)), limit("feature_scores")):
        called = np.zeros((n_tokens, some.stop - some.start), dtype=bool)
        for conditions in chosen[some].T:
            called |= _columns(part.holds, conditions).toarray() > 0
        codes = np.maximum(part.codes[:, some].toarray(), 0)
        peak = np.maximum.reduceat(codes, part.starts)
        window_called = np.logical_or.reduceat(called, part.starts)
        beside = np.zeros(peak.shape, dtype=bool)
        for neighbors in near[some].T:
            beside |= _columns(fires_in, neighbors).toarray() > 0
        fires, quiet = peak > 0, peak <= 0
        window = np.repeat(np.arange(len(part.starts)), np.diff(np.append(part.starts, n_tokens)))
        others = fires[window] & (codes <= 0)
        hit = _share(window_called, fires)
        columns.append(
            (
                (hit + 1 - _share(window_called, quiet)) / 2,
                (hit + 1 - _share(window_called, quiet & beside)) / 2,
                (_share(called, codes > 0) + 1 - _share(called, others)) / 2,
                _by_strength(window_called, peak, bins),
                fires.sum(0),
            )
        )
    return Scores(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def near_features(part: Part, k: int) -> np.ndarray:
    """(feature, k), the features that most often fire at the same tokens: the largest cosines; -1 where none does."""
    fires: Sparse = sparse.csr_matrix(part.codes > 0, dtype=np.float64)
    norms = np.sqrt(np.asarray(fires.sum(0)).ravel())
    near = np.full((fires.shape[1], k), -1)
    for some in _blocks(np.full(fires.shape[1], fires.shape[1]), limit("feature_scores")):
        own = np.arange(some.start, some.stop)
        together = (fires[:, some].T @ fires).toarray() / np.maximum(norms, 1)
        together[np.arange(len(own)), own] = 0
        best = np.argsort(-together, axis=1, kind="stable")[:, :k]
        near[some, : best.shape[1]] = np.where(np.take_along_axis(together, best, 1) > 0, best, -1)
    return near


def _share(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    count = among.sum(0)
    return np.where(count > 0, (of & among).sum(0) / np.maximum(count, 1), np.nan)


def _by_strength(called: np.ndarray, peak: np.ndarray, bins: int) -> np.ndarray:
    """(feature, bin), the share called of equally many windows a bin, the strongest first."""
    order = np.argsort(-peak, axis=0, kind="stable")
    fires = np.take_along_axis(peak, order, 0) > 0
    bin_of = np.arange(len(peak))[:, None] * bins // np.maximum(fires.sum(0), 1)
    ranked = np.take_along_axis(called, order, 0)
    return np.stack([_share(ranked, fires & (bin_of == number)) for number in range(bins)], 1)


def _bits(matrix: Sparse) -> np.ndarray:
    """(column, byte), in which rows a column is not 0, eight of them a byte."""
    columns: Sparse = sparse.csc_matrix(matrix)
    bits = np.zeros((columns.shape[1], -(-columns.shape[0] // 8)), dtype=np.uint8)
    column = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
    np.bitwise_or.at(bits, (column, columns.indices // 8), np.left_shift(1, columns.indices % 8).astype(np.uint8))
    return bits


def _columns(matrix: Sparse, chosen: np.ndarray) -> Sparse:
    """Columns of a matrix; empty ones for -1."""
    n = matrix.shape[1]
    there = np.flatnonzero(chosen >= 0)
    pick = sparse.csc_matrix(
        (np.ones(len(there), np.int32), (chosen[there], there)), shape=(n, len(chosen)), dtype=np.int32
    )
    return sparse.csc_matrix(matrix @ pick)


def _blocks(numbers: np.ndarray, room: int) -> list[slice]:
    """Runs of features whose numbers together fit into a room, one feature at least."""
    blocks, first, held = [], 0, 0
    for at, number in enumerate(numbers.tolist()):
        if at > first and held + number > room:
            blocks.append(slice(first, at))
            first, held = at, 0
        held += number
    return [*blocks, slice(first, len(numbers))]
