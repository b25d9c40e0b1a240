"""PRIMER 3.1.22: a contrast of logits is linear in them, antisymmetric, and blind to what all logits share."""

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.errors import CasebackError, TargetError
from caseback.localize.inputs import contrastive, gradient_norm, gradient_x_input, integrated_gradients
from exact import exact

PROMPTS = [[7, 2, 9, 4, 8], [5, 6, 3]]


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_22_linear_antisymmetric_and_blind_to_a_constant(name):
    model = shelf.model(name)
    with exact():
        there = contrastive(model, PROMPTS, 3, [5, 8], method="gradient_x_input")
        back = contrastive(model, PROMPTS, 5, 3, method="gradient_x_input")
        apart = [gradient_x_input(model, PROMPTS, cb.logit(t)).values for t in (3, 5, 8)]
        shifted = cb.function(lambda x: (x[:, 3] + x.mean(-1)) - (x[:, 5] + x.mean(-1)))
        with_constant = gradient_x_input(model, PROMPTS, shifted)
    assert np.allclose(there.values[:, 0], apart[0] - apart[1], atol=1e-10, equal_nan=True)
    assert np.allclose(there.values[:, 1], apart[0] - apart[2], atol=1e-10, equal_nan=True)
    assert np.allclose(back.values, -there.values[:, 0], atol=1e-10, equal_nan=True)
    assert np.allclose(with_constant.values, there.values[:, 0], atol=1e-10, equal_nan=True)


def test_3_1_22_each_foil_is_the_methods_own_word_on_the_difference():
    model = shelf.model("gpt2")
    for method, function, options in (
        ("gradient_norm", gradient_norm, {"p": 1.0}),
        ("integrated_gradients", integrated_gradients, {"steps": 6}),
    ):
        for budget in (None, 1):
            many = contrastive(model, PROMPTS, 3, [5, 8, 2], method=method, options=options, token_budget=budget)
            for i, foil in enumerate((5, 8, 2)):
                one = function(model, PROMPTS, cb.logit_diff(3, foil), **options)
                assert np.allclose(many.values[:, i], one.values, atol=1e-6, equal_nan=True)
    assert many.vocab.values.tolist() == ["5", "8", "2"] and many.attrs["method"] == "integrated_gradients"


def test_bad_input_is_told():
    model = shelf.model("gpt2")
    with pytest.raises(TargetError, match="foil 3 is the target itself"):
        contrastive(model, PROMPTS, 3, 3)
    with pytest.raises(TargetError, match="given twice"):
        contrastive(model, PROMPTS, 3, [5, 5])
    with pytest.raises(CasebackError, match="no foil given"):
        contrastive(model, PROMPTS, 3, [])
    with pytest.raises(CasebackError, match="token_budget=0"):
        contrastive(model, PROMPTS, 3, 5, token_budget=0)
    with pytest.raises(TargetError, match="outside the vocabulary"):
        contrastive(model, PROMPTS, 3, 10**6)
