"""Units and layers of two models: a permuted model is found again, a rotated one is not, sums are numpy's."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.behaviors import layer_similarity, universality
from caseback.behaviors.seeds.universality import UNITS
from caseback.errors import CasebackError
from caseback.jobs import budget

rng = np.random.default_rng(0)
ROWS = [rng.integers(3, 60, size).tolist() for size in (14, 9, 12, 5, 14, 11, 8, 13) * 4]


def activations(model, site, skip=2):
    """(layer, token, unit...) from one run a row."""
    runs = [model.run([row], read=[site]) for row in ROWS]
    return [torch.cat([run[site, layer][0, skip:] for run in runs]).double().numpy() for layer in range(model.n_layers)]


def permuted(name):
    """A copy whose neurons stand in another order."""
    hf: Any = copy.deepcopy(zoo.tiny(name))
    orders = []
    with torch.no_grad():
        for block in hf.transformer.h:
            order = torch.randperm(block.mlp.c_fc.weight.shape[1], generator=torch.Generator().manual_seed(len(orders)))
            block.mlp.c_fc.weight.copy_(block.mlp.c_fc.weight[:, order])
            block.mlp.c_fc.bias.copy_(block.mlp.c_fc.bias[order])
            block.mlp.c_proj.weight.copy_(block.mlp.c_proj.weight[order])
            orders.append(order.tolist())
    return cb.load(hf), orders


def other_seed():
    torch.manual_seed(7)
    hf = zoo.tiny("gpt2")
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim == 2:
                weight.copy_(weight[torch.randperm(len(weight))])
    return cb.load(hf)


def test_5_2_15_correlations_are_those_of_numpy():
    one, two = shelf.model("gpt2"), other_seed()
    matched = universality(one, two, ROWS, skip=2)
    x, y = (np.concatenate(activations(model, "mlp_post"), 1) for model in (one, two))
    expected = np.abs(np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :])
    np.testing.assert_allclose(matched.correlation, expected.max(1), rtol=1e-9)
    width = y.shape[1] // two.n_layers
    where = expected.argmax(1)
    assert matched.nearest.values.tolist() == [f"L{at // width}N{at % width}" for at in where]
    assert matched.attrs["n_tokens"] == len(x)


def test_5_2_15_the_control_is_the_other_model_rotated_layer_by_layer():
    from caseback.model.algebra.bases import random_rotation

    one, two = shelf.model("gpt2"), other_seed()
    draw = torch.Generator().manual_seed(3)
    layers = activations(two, "mlp_post")
    y = np.concatenate([acts @ random_rotation(acts.shape[1], draw).numpy() for acts in layers], 1)
    x = np.concatenate(activations(one, "mlp_post"), 1)
    expected = np.abs(np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]).max(1)
    np.testing.assert_allclose(universality(one, two, ROWS, skip=2, seed=3).control, expected, rtol=1e-9)


def test_5_2_15_a_model_with_its_neurons_permuted_has_every_one():
    two, orders = permuted("gpt2")
    matched = universality(shelf.model("gpt2"), two, ROWS)
    np.testing.assert_allclose(matched.correlation, 1.0, atol=1e-9)
    expected = [f"L{layer}N{order.index(i)}" for layer, order in enumerate(orders) for i in range(len(order))]
    assert matched.nearest.values.tolist() == expected


def test_5_2_15_of_a_rotated_model_no_neuron_is_universal():
    # activations of independent units: what is left of each after a rotation is shared among all
    generator = torch.Generator().manual_seed(0)
    from caseback.behaviors.seeds.moments import Moments
    from caseback.behaviors.seeds.universality import _nearest
    from caseback.model.algebra.bases import random_rotation

    turn = random_rotation(64, generator)
    same = Moments(0, 1000, torch.eye(64).double(), {0: torch.eye(64).double()}, {0: torch.eye(64).double()})
    best, where, control = _nearest(same, {0: turn})
    assert best.min() == 1 and where == [(0, i) for i in range(64)] and (best - control > 0.5).all()
    rotated = Moments(0, 1000, torch.eye(64).double(), {0: turn}, {0: torch.eye(64).double()})
    best, _, control = _nearest(rotated, {0: random_rotation(64, generator)})
    assert ((best - control).abs() < 0.25).all()


def test_heads_are_matched_by_the_length_of_what_they_write():
    one, two = shelf.model("llama"), shelf.model("llama")
    matched = universality(one, two, ROWS, units="head", skip=2)
    x = np.concatenate([np.linalg.norm(acts, axis=-1) for acts in activations(one, "head_out")], 1)
    expected = np.abs(np.corrcoef(x.T))
    np.testing.assert_allclose(matched.correlation, expected.max(1), rtol=1e-9)
    assert matched.component.values[0] == "L0H0" and UNITS["head"].site == "head_out"


def test_what_does_not_fit_is_read_in_more_passes():
    one, two = shelf.model("gpt2"), other_seed()
    whole = universality(one, two, ROWS)
    with budget.override(cross_moment_bytes=1, stream_tokens=20):
        parts = universality(one, two, ROWS)
    np.testing.assert_allclose(whole.correlation, parts.correlation, rtol=1e-9)
    np.testing.assert_allclose(whole.control, parts.control, rtol=1e-9)


def test_cka_is_that_of_its_definition_and_does_not_see_rotations():
    one, two = shelf.model("gpt2"), other_seed()
    similar = layer_similarity(one, two, ROWS, skip=2)
    xs, ys = activations(one, "resid_post"), activations(two, "resid_post")

    def cka(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))

    expected = [[cka(x, y) for y in ys] for x in xs]
    np.testing.assert_allclose(similar.similarity, expected, rtol=1e-9)
    turn = np.linalg.qr(rng.standard_normal((xs[0].shape[1],) * 2))[0]
    assert cka(xs[0], 3 * xs[0] @ turn) == pytest.approx(1)


def test_chance_is_the_mean_over_tokens_paired_at_random():
    one, two = shelf.model("gpt2"), other_seed()
    similar = layer_similarity(one, two, ROWS, skip=2)
    x, y = (activations(model, "resid_post")[0] for model in (one, two))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    draws = [np.linalg.norm(x[rng.permutation(len(x))].T @ y) ** 2 / scale for _ in range(2000)]
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(float(similar.chance[0, 0]) - np.mean(draws)) < 4 * error


def test_what_cannot_be_compared_is_refused():
    one = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="expected one of neuron, head"):
        universality(one, one, ROWS, units="feature")
    with pytest.raises(CasebackError, match="one vector per token"):
        layer_similarity(one, one, ROWS, site="z")
    with pytest.raises(CasebackError, match="0 tokens past the first 50"):
        universality(one, one, ROWS, skip=50)
    with pytest.raises(CasebackError, match="models of one tokenizer"):
        universality(one, cb.load("meadow"), ROWS)
    with pytest.raises(CasebackError, match="the corpus is empty"):
        layer_similarity(one, one, [])
