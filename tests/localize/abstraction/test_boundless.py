"""PRIMER 3.2.35: boundless DAS finds how many dimensions a variable takes; a cold mask is a hard subspace."""

import planted_truth
import pytest
import torch
from planted_truth import overlap

from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.localize.abstraction import At, boundless_das, interchange_accuracy
from caseback.localize.abstraction.alignment import seats
from caseback.localize.abstraction.boundless import SMALLEST, Boundaries
from caseback.localize.abstraction.suffixes import Suffixes
from caseback.model.algebra.rotation import random_rows

HERE = At("resid_post", layer=0, pos=-1)
END = At("resid_mid", layer=0, pos=-1)
QUICK = {"accumulate": 1, "batch_size": 8, "lr": 0.03, "boundary_lr": 0.05, "temperature": (2.0, 0.1)}


@pytest.mark.parametrize("edge", ["open", "closed"])
def test_3_2_35_a_cold_mask_is_das_of_that_size(edge):
    """As the temperature falls to 0, values and gradients go to those of the rows inside."""
    model, _ = planted_truth.gate()
    data, d = planted_truth.bits(model, count=12), model.d_model
    found = seats(model, data, {"a": END})
    suffixes, rotation = Suffixes(model, data, found), random_rows(d, d, 0)
    bounds = Boundaries(1, d, edge=edge)
    with torch.no_grad():
        bounds.share.fill_(3 / d)
    rows = torch.arange(12)
    hard = suffixes.log_probs(rows, lambda seat: seat.edits((rotation[:3]).requires_grad_())).detach()
    off = []
    for temperature in (1.0, 0.1, 0.01):
        mask = bounds.masks(temperature)[0]
        soft = suffixes.log_probs(rows, lambda seat, mask=mask: seat.edits(rotation, mask)).detach()
        off.append(float((soft - hard).abs().max()))
    assert off[0] > off[1] > off[2] and off[2] < 1e-12
    assert bounds.sizes() == [3]


def test_3_2_35_the_mask_is_the_formula_s_and_boundaries_stay_inside():
    bounds, published = Boundaries(2, 6), Boundaries(2, 6, edge="closed")
    with torch.no_grad():
        bounds.share.copy_(torch.tensor([0.4, 0.3]))
        published.share.copy_(bounds.share)
    place, t = torch.arange(6) + 0.5, 0.7
    for mask, other, (low, high) in zip(bounds.masks(t), published.masks(t), ((0.0, 2.4), (2.4, 4.2)), strict=True):
        told = torch.sigmoid((place - low) / t) * torch.sigmoid((high - place) / t)
        assert torch.allclose(other, told, atol=1e-6)
        assert torch.allclose(mask, told if low else torch.sigmoid((high - place) / t), atol=1e-6)
    assert bounds.sizes() == [2, 2]
    with torch.no_grad():
        bounds.share.copy_(torch.tensor([-3.0, 7.0]))
    assert torch.allclose(bounds.shares, torch.tensor([SMALLEST, 1.0])) and bounds.sizes() == [0, 6]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_3_2_35_the_size_of_a_planted_variable_is_found(size):
    model, truth, data = planted_truth.directly(size, 240, gain=2.0)
    found = boundless_das(model, data, HERE, epochs=12, **QUICK)
    assert found.sizes["k"] == size and found.attrs["held_out_accuracy"] >= 0.98
    assert overlap(found.values, truth["a"]) >= 0.99
    assert found.attrs["boundaries"][0] * model.d_model == pytest.approx(size, abs=0.5)
    again = interchange_accuracy(model, data, {"a": HERE.holding(found)})
    assert again.attrs["accuracy"] >= 0.98 and found.attrs["random_accuracy"] < 0.7


def test_two_variables_have_boundaries_of_their_own():
    model, truth, data = planted_truth.directly(1, 240, variables=["a", "b"], gain=2.0, swap="any")
    how = {**QUICK, "boundary_lr": 0.02, "temperature": (1.0, 0.1), "penalty": 0.2}
    found = boundless_das(model, data, HERE, epochs=8, **how)
    assert found.attrs["held_out_accuracy"] >= 0.98 and set(found["variable"].values) == {"a", "b"}
    at = {name: HERE.holding(found, name) for name in "ab"}
    assert interchange_accuracy(model, data, at).attrs["accuracy"] >= 0.98
    for name in "ab":
        mine = torch.tensor(found.values[found["variable"].values == name])
        assert float((mine @ truth[name].T).norm()) >= 0.98


def test_a_high_price_leaves_nothing_and_says_so():
    model, _ = planted_truth.gate()
    data = planted_truth.bits(model, count=40)
    found = boundless_das(model, data, END, epochs=10, penalty=200.0, **QUICK)
    assert found.sizes["k"] == 0 and found.attrs["held_out_accuracy"] == found.attrs["no_swap_accuracy"]


def test_bad_schedules_are_refused():
    model, truth = planted_truth.gate()
    data = planted_truth.bits(model, count=20)
    for temperature in ((0.1, 50.0), (1.0, 0.0)):
        with pytest.raises(OutOfRange, match="expected it to fall"):
            boundless_das(model, data, END, temperature=temperature)
    with pytest.raises(OutOfRange, match="start is 0"):
        boundless_das(model, data, END, start=0)
    with pytest.raises(CasebackError, match="edge 'ajar' is unknown"):
        boundless_das(model, data, END, edge="ajar")
    with pytest.raises(EditError, match="has a subspace already"):
        boundless_das(model, data, END.holding(truth["a"]))
