"""The local learning coefficient: walks have the coefficients that theory gives, and resume; the model stays as it is."""

import math

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import emergence, learning_coefficient
from caseback.behaviors.growth.learning_coefficient import Walk
from caseback.errors import CasebackError, OutOfRange, TargetError
from zoo import tiny

PROMPTS = [[1, 5, 2, 7, 3], [4, 4, 6, 1], [2, 9, 8, 3, 5, 1], [7, 1, 1, 2]]
SHORT = {"burn_in": 2, "steps": 4, "chains": 2, "batch_size": 3}


@pytest.mark.parametrize(("power", "coefficient"), [(2, 1 / 2), (4, 1 / 4)])
def test_5_4_13_each_direction_counts_by_how_flat_the_loss_is_along_it(power, coefficient):
    """Under exp(-n b |w|^p) the mean of n b |w|^p is 1 / p in each dimension, whatever n b is."""
    n_beta, d = 50.0, 400
    weights = torch.zeros(d, dtype=torch.float64).requires_grad_()
    walk = Walk(n_beta, lr=0.02 / n_beta, localization=0.0, burn_in=1500, steps=3000, batch_size=1)
    losses = lambda rows: (weights**power).sum()[None].expand(len(rows))  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    found = n_beta * walk.excess([weights], losses, torch.zeros(1, dtype=torch.float64), generator).mean() / d
    assert float(found) == pytest.approx(coefficient, rel=0.05)
    assert not weights.any()  # back where it was


def test_5_4_13_directions_that_the_loss_does_not_see_do_not_count():
    weights = torch.zeros(400, dtype=torch.float64).requires_grad_()
    walk = Walk(50.0, lr=4e-4, localization=10.0, burn_in=500, steps=3000, batch_size=1)
    losses = lambda rows: (weights[:100] ** 2).sum()[None].expand(len(rows))  # noqa: E731
    found = 50 * walk.excess([weights], losses, torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(0))
    # held at the start, a direction of curvature 2 n b has n b / (2 n b + g) in place of 1 / 2
    assert float(found.mean()) == pytest.approx(100 * 50 / 110, rel=0.05)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_walks_are_those_of_plain_weights_and_leave_the_model_alone(family):
    model = cb.load(tiny(family))
    before = {name: weight.clone() for name, weight in model.hf.named_parameters()}
    found = learning_coefficient(model, PROMPTS, **SHORT, seed=3)
    assert found.sizes == {"chain": 2, "step": 4}
    assert all(torch.equal(weight, before[name]) for name, weight in model.hf.named_parameters())
    tokens = model.tokens(PROMPTS)
    own = cb.loss()(model.run(tokens)).mean()
    assert found.attrs["loss"] == pytest.approx(float(own), rel=1e-5)
    n = int((tokens.lengths - 1).sum())
    assert found.attrs["n_beta"] == pytest.approx(n / math.log(n))
    np.testing.assert_allclose(found.coefficient, found.excess.mean("step") * found.attrs["n_beta"], rtol=1e-6)
    assert found.attrs["n_weights"] == sum(weight.numel() for weight in before.values())


def test_the_first_step_is_a_plain_langevin_step():
    model = cb.load(tiny("gpt2").double())
    found = learning_coefficient(model, PROMPTS, burn_in=0, steps=2, chains=1, batch_size=4, lr=1e-3, n_beta=7.0)
    draw, hf = torch.Generator().manual_seed(0), tiny("gpt2").double()
    weights = [weight for weight in hf.parameters() if weight.numel()]
    loaded, tokens = cb.load(hf), model.tokens(PROMPTS)

    def loss():
        logits = hf(tokens.ids, attention_mask=tokens.mask.long()).logits[:, :-1].log_softmax(-1)
        both = tokens.mask[:, 1:] & tokens.mask[:, :-1]
        own = -logits.gather(-1, tokens.ids[:, 1:, None])[..., 0] * both
        return (own.sum(1) / both.sum(1)).mean()

    start = loss()
    gradients = torch.autograd.grad(start, weights)
    torch.randperm(4, generator=draw)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            noise = torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
            weight += -(1e-3 / 2) * 7.0 * gradient + math.sqrt(1e-3) * noise
        expected = float(loss() - start)
    assert loaded.hf is hf
    assert found.excess[0].values == pytest.approx([0, expected], abs=1e-9)


def test_a_part_moves_alone():
    model = cb.load(tiny("gpt2"))
    part = learning_coefficient(model, PROMPTS, within=["transformer.h.1"], **SHORT)
    assert part.attrs["n_weights"] == sum(w.numel() for w in model.hf.transformer.h[1].parameters())


def test_a_metric_is_what_is_to_be_high():
    model = cb.load(tiny("gpt2"))
    found = learning_coefficient(model, PROMPTS, cb.log_prob([3, 4, 5, 6]), **SHORT)
    own = cb.log_prob([3, 4, 5, 6])(model.run(PROMPTS)).mean()
    assert found.attrs["loss"] == pytest.approx(-float(own), rel=1e-5)
    assert found.attrs["n_beta"] == pytest.approx(4 / math.log(4))


def test_padding_side_changes_nothing():
    model = cb.load(tiny("gpt2").double())
    left, right = (model.tokens(PROMPTS, padding=side) for side in ("left", "right"))
    one, other = (learning_coefficient(model, tokens, **SHORT) for tokens in (left, right))
    np.testing.assert_allclose(one.excess, other.excess, atol=1e-9)


def test_finished_walks_are_kept(tmp_path, monkeypatch):
    model, file = cb.load(tiny("gpt2")), tmp_path / "walks.npz"
    whole, true = learning_coefficient(model, PROMPTS, **SHORT), Walk.excess
    calls = []

    def interrupted(self, *args):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return true(self, *args)

    monkeypatch.setattr(Walk, "excess", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learning_coefficient(model, PROMPTS, **SHORT, checkpoint=file)
    calls[:] = []
    again = learning_coefficient(model, PROMPTS, **SHORT, checkpoint=file)
    assert calls == [1] and again.excess.equals(whole.excess)
    with pytest.raises(CasebackError, match="of another one"):
        learning_coefficient(model, PROMPTS, **SHORT, seed=1, checkpoint=file)


def test_walks_that_leave_for_infinity_say_so():
    with pytest.raises(CasebackError, match="left for infinity: lower lr=1e\\+30"):
        learning_coefficient(cb.load(tiny("gpt2")), PROMPTS, lr=1e30, **SHORT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_beta": 0.0}, "expected a number above 0"),
        ({"lr": 0.0}, "expected a number above 0"),
        ({"localization": -1.0}, "expected a number above 0"),
        ({"steps": 0}, "expected 1 or more"),
        ({"burn_in": -1}, "no negative burn_in"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(OutOfRange, match=words):
        learning_coefficient(cb.load(tiny("gpt2")), PROMPTS, **options)


def test_other_bad_inputs_are_refused():
    model = cb.load(tiny("gpt2"))
    with pytest.raises(CasebackError, match="expected two or more"):
        learning_coefficient(model, [1, 2, 3])
    with pytest.raises(TargetError, match="needs a metric of the logits"):
        learning_coefficient(model, PROMPTS, cb.activation("mlp_post", layer=0, unit=3))
    with pytest.raises(CasebackError, match="stands under edits"):
        learning_coefficient(model.edited([cb.Zero("z", layer=0, head=0)]), PROMPTS)
    with pytest.raises(CasebackError, match="no parameter is called 'transformer.h.9'"):
        learning_coefficient(model, PROMPTS, within=["transformer.h.9"])


def test_emergence_has_it_as_a_curve_where_asked():
    rows = [[0, *range(1, 1 + n)] for n in (9, 8, 7, 9, 9, 6)]
    models = {0: cb.load(tiny("gpt2")), 1: cb.load(tiny("gpt2"))}
    options = {"kinds": "copying", "rows": 8}
    grown = emergence(models, rows, coefficient=True, **options)
    one, other = grown.curve("learning coefficient").values
    assert one == other and one is not None
    with pytest.raises(CasebackError, match="no curve"):
        emergence(models, rows, **options).curve("learning coefficient")
