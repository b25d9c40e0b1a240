"""PRIMER 3.1.8: LIME is weighted least squares on masks, exact where the metric is linear in them."""

import linear_models
import numpy as np
import pytest
import torch
from linear_models import close
from sklearn.linear_model import LinearRegression, Ridge

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.perturbation.coalitions import game_of
from caseback.localize.inputs.perturbation.lime import lime
from caseback.localize.inputs.perturbation.occlusion import occlusion
from exact import exact

METRIC = cb.logit_diff(3, 5)


@pytest.mark.parametrize("how", [{}, {"masked": 0.3, "distance": "hamming", "width": 0.7}])
def test_3_1_8_recovers_the_coefficients_of_a_model_linear_in_the_mask(how):
    model, prompt = linear_models.additive(), shelf.ids((6,))
    with exact():
        scores = lime(model, prompt, METRIC, samples=60, **how)
        assert close(scores, occlusion(model, prompt, METRIC), atol=1e-10)
    assert close(scores.attrs["fidelity"][0], 1, 1e-9) and float(scores.std_error.max()) < 1e-10


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "mixtral"])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_3_1_8_is_weighted_least_squares_by_hand(name, ridge):
    model, ids = shelf.model(name), shelf.ids((5,))[0]
    groups, zero = [[p] for p in range(5)], torch.zeros(model.d_model, dtype=torch.float64)
    masks = np.random.default_rng(0).random((24, 5)) < 0.6
    with exact():
        y = [linear_models.value_by_hand(model, ids, groups, z, zero, METRIC) for z in masks.tolist()]
        scores = lime(model, [ids], METRIC, baseline=zero, masks=masks, ridge=ridge, width=0.5)
    cosine = masks.sum(1) / np.sqrt(np.maximum(masks.sum(1), 1) * 5)
    weight = np.exp(-((1 - cosine) ** 2) / 0.5**2)
    fitted = (Ridge(ridge) if ridge else LinearRegression()).fit(masks, y, weight)
    assert close(scores.values[0], fitted.coef_, atol=1e-9)
    assert close(scores.attrs["intercept"][0], fitted.intercept_, atol=1e-9)
    assert close(scores.attrs["fidelity"][0], fitted.score(masks, y, weight), atol=1e-9)


def test_3_1_8_is_deterministic_under_a_seed_and_knows_its_spread():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    drawn = [lime(model, prompt, METRIC, samples=150, seed=s) for s in range(30)]
    assert np.array_equal(drawn[3], lime(model, prompt, METRIC, samples=150, seed=3))
    actual = np.std([d.values[0] for d in drawn], 0, ddof=1)
    said = np.sqrt(np.mean([d.std_error.values[0] ** 2 for d in drawn], 0))
    assert 0.8 < np.median(actual / said) < 1.25, actual / said


def test_the_top_features_are_fitted_again_alone():
    model, prompt = shelf.model("llama"), shelf.ids((6,))
    masks = np.random.default_rng(1).random((100, 6)) < 0.5
    with exact():
        whole, some, least = (lime(model, prompt, METRIC, masks=masks, top=k).values[0] for k in (None, 2, 6))
        y = game_of(model, prompt, METRIC).values(masks[:, None])[:, 0]
    best = np.sort(np.abs(whole).argsort()[-2:])
    weight = np.exp(-(((1 - np.sqrt(masks.mean(1))) / 0.25) ** 2))
    fitted = LinearRegression().fit(masks[:, best], y, weight)
    assert close(some[best], fitted.coef_, 1e-9) and np.flatnonzero(some).tolist() == best.tolist()
    assert close(least, whole)


def test_padding_and_batch_change_nothing():
    model, prompts = shelf.model("mistral"), shelf.ids((6, 4))
    tokens = model.tokens(prompts)
    with exact():
        scores = lime(model, tokens, METRIC, samples=40)
        left = lime(model, tokens.padded_on("left"), METRIC, samples=40, token_budget=13)
        alone = lime(model, [prompts[1]], METRIC, samples=40)
    assert close(scores, left, atol=1e-10)
    assert close(scores.values[1, :4], alone.values[0], atol=1e-10)


def test_bad_input():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    for bad, kind, said in (
        ({"samples": 0}, OutOfRange, "samples is 0"),
        ({"samples": 5}, CasebackError, "5 samples determine . of 7 coefficients: take more samples, or ridge > 0"),
        ({"masked": 1.0}, OutOfRange, "masked is 1.0"),
        ({"width": 0}, OutOfRange, "width is 0"),
        ({"ridge": -1}, OutOfRange, "ridge -1"),
        ({"top": 0}, OutOfRange, "top is 0"),
        ({"distance": "euclid"}, CasebackError, "distance 'euclid' is unknown"),
        ({"masks": np.ones((0, 6))}, CasebackError, r"expected \(samples, 6\)"),
        ({"keep": slice(0, 6)}, CasebackError, "no token to perturb"),
        ({"features": [[]]}, CasebackError, "feature 0 of prompt 0 is empty"),
    ):
        with pytest.raises(kind, match=said):
            lime(model, prompt, METRIC, **bad)
    assert lime(model, prompt, METRIC, samples=5, ridge=1.0).shape == (1, 6)
