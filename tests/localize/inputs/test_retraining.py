"""The linear datamodelling score: its formula, and a small organism whose retraining influence foresees."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import numpy as np
import one_at_a_time as alone
import pytest
import torch
from scipy.stats import spearmanr

import shelf
from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.localize.inputs import (
    influence_functions,
    linear_datamodeling_score,
    random_subsets,
    retrained_outcomes,
)


def test_3_1_25_is_the_rank_correlation_of_sums_and_outcomes():
    draw = np.random.default_rng(0)
    scores, subsets = draw.normal(size=(3, 20)), random_subsets(20, 15, seed=1)
    outcomes = subsets @ scores.T + draw.normal(size=(15, 3))
    outcomes[3] = outcomes[5]  # ties
    mine = linear_datamodeling_score(scores, subsets, outcomes)
    theirs = [spearmanr(subsets @ scores[q], outcomes[:, q]).statistic for q in range(3)]
    assert np.allclose(mine.values, theirs) and mine.attrs["mean"] == pytest.approx(np.mean(theirs))
    assert np.allclose(linear_datamodeling_score(-scores, subsets, outcomes).values, -mine.values)
    flat = linear_datamodeling_score(scores * [[1], [0], [1]], subsets, outcomes)
    assert np.isnan(flat.values[1]) and not np.isnan(flat.values[[0, 2]]).any()
    with pytest.raises(CasebackError, match="do not fit"):
        linear_datamodeling_score(scores, subsets[:, 1:], outcomes)
    with pytest.raises(CasebackError, match="at least 3"):
        linear_datamodeling_score(scores, subsets[:2], outcomes[:2])


def in_fractions(scores, subsets, outcomes):
    """Spearman's correlation of exact sums and outcomes, one query at a time."""
    found = []
    for row, seen in zip(scores, outcomes.T, strict=True):
        sums = [
            sum((Fraction(x) for x, inside in zip(row, subset, strict=True) if inside), Fraction(0))
            for subset in subsets
        ]
        found.append(spearmanr([sorted(set(sums)).index(x) for x in sums], seen).statistic)
    return found


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-13, 1e-30, 1e-300, 1e12, 1e300])
@pytest.mark.parametrize("ties", [False, True])
def test_3_1_25_a_rank_statistic_has_no_scale(scale, ties):
    random = np.random.default_rng(0)
    # tenths have no exact binary form, so that sums which are equal in them differ by rounding
    scores = random.integers(-5, 6, (4, 12)) / 10 if ties else random.normal(size=(4, 12))
    subsets, outcomes = random_subsets(12, 30, seed=1), random.normal(size=(30, 4))
    exact = in_fractions((scores * 10).round() if ties else scores, subsets, outcomes)
    assert np.allclose(linear_datamodeling_score(scores * scale, subsets, outcomes), exact, rtol=0, atol=1e-12)
    small = np.concatenate([scores, scores * 1e-9], 1) * scale  # examples that hardly count do not count as ties
    both = np.concatenate([subsets, random_subsets(12, 30, seed=2)], 1)
    if not ties:
        expected = in_fractions(small / scale, both, outcomes)
        assert np.allclose(linear_datamodeling_score(small, both, outcomes), expected, rtol=0, atol=1e-12)


def test_subsets_are_random_halves():
    subsets = random_subsets(50, 400, share=0.4, seed=3)
    assert (subsets.sum(1) == 20).all()
    assert np.abs(subsets.mean(0) - 0.4).max() < 4 * (0.24 / 400) ** 0.5
    assert not np.array_equal(subsets, random_subsets(50, 400, share=0.4, seed=4))
    with pytest.raises(OutOfRange, match="some, but not all"):
        random_subsets(3, 2, share=0.01)


def test_outcomes_are_kept_and_an_interrupted_retraining_goes_on(tmp_path):
    model, trained = shelf.model("gpt2"), []
    subsets, queries = random_subsets(6, 4), [([5, 6], [7]), ([4], [2, 3])]

    def train(kept):
        if len(trained) == 2 and kept == trained_on[2]:
            trained.append(None)
            raise KeyboardInterrupt
        trained.append(kept)
        return model

    trained_on = [np.flatnonzero(s).tolist() for s in subsets]
    with pytest.raises(KeyboardInterrupt):
        retrained_outcomes(train, subsets, queries, checkpoint=tmp_path / "kept.npz")
    outcomes = retrained_outcomes(train, subsets, queries, checkpoint=tmp_path / "kept.npz")
    assert [t for t in trained if t] == trained_on
    by_hand = [alone.log_likelihood(model.hf, [5, 6, 7], 2), alone.log_likelihood(model.hf, [4, 2, 3], 1)]
    assert np.allclose(outcomes.values, torch.stack(by_hand).detach().numpy()[None], atol=1e-5)
    with pytest.raises(LoadError, match="belongs to other subsets"):
        retrained_outcomes(train, subsets[1:], queries, checkpoint=tmp_path / "kept.npz")
    (tmp_path / "kept.npz").write_bytes(b"no")
    with pytest.raises(LoadError, match="is not a checkpoint"):
        retrained_outcomes(train, subsets, queries, checkpoint=tmp_path / "kept.npz")


def test_influence_foresees_retraining_of_the_organism():
    """With the organism of the benchmark, half trained: better than nothing by more than two standard errors."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "data_attribution_lds.py"
    spec = importlib.util.spec_from_file_location("data_attribution_lds", path)
    organism = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(organism)
    rows, queries = organism.world()
    (model,) = organism.train(rows, steps=100)
    subsets = random_subsets(len(rows), 8)
    train = lambda kept: organism.train([rows[i] for i in kept], steps=100)[0]  # noqa: E731
    outcomes = retrained_outcomes(train, subsets, queries)
    scores = influence_functions(model, queries, rows, parts=organism.PARTS)
    lds = linear_datamodeling_score(scores, subsets, outcomes)
    assert lds.attrs["mean"] > 2 * lds.attrs["standard_error"]
