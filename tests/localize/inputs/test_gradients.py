"""PRIMER 3.1.1 and 3.1.2: gradients at the embedding are what autograd and finite differences say they are."""

import by_hand
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.gradients.gradients import gradient_norm, gradient_x_input
from exact import exact

# what these take as inputs_embeds is what their embedding writes, or in proportion to it
EMBEDS = "gpt2 gpt_neo gptj gpt_neox llama mistral gemma2 mixtral cohere granite olmo2 gpt_oss phi3".split()
METRIC = cb.logit_diff(3, 5)


def difference(logits):
    return (logits[:, -1, 3] - logits[:, -1, 5]).sum()


@pytest.mark.parametrize("name", EMBEDS)
def test_3_1_2_is_plain_autograd_on_the_embeddings(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    with exact():
        embeds = by_hand.embeddings(model.hf, prompts)
        by_autograd = by_hand.gradient(model.hf, embeds, difference)
        scores = gradient_x_input(model, prompts, METRIC, by_dimension=True)
        summed = gradient_x_input(model, prompts, METRIC)
    assert np.allclose(scores.values, (by_autograd * embeds).numpy(), atol=1e-10)
    assert np.allclose(summed.values, scores.sum("d_model").values, atol=1e-10)
    assert np.abs(summed.values).max() > 1e-3


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_3_1_1_is_the_norm_of_plain_autograd(p):
    model, prompts = shelf.model("llama"), shelf.ids((6, 6))
    with exact():
        by_autograd = by_hand.gradient(model.hf, by_hand.embeddings(model.hf, prompts), difference)
        norms = gradient_norm(model, prompts, METRIC, p=p)
    assert np.allclose(norms.values, by_autograd.norm(p=p, dim=-1).numpy(), atol=1e-10)
    assert norms.attrs["p"] == p


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_1_equals_finite_differences(name):
    """The norm is the slope along the gradient, and no random unit direction is steeper."""
    model, prompt, i, step = shelf.model(name), shelf.ids((6,), seed=4), 2, 1e-6
    with exact():
        embedding = model.run(prompt, read=["embed"])["embed"]
        direction = torch.from_numpy(gradient_x_input(model, prompt, METRIC, by_dimension=True).values) / embedding
        norm = gradient_norm(model, prompt, METRIC).values[0, i]

        def slope(unit):
            there, back = (METRIC(model.run(prompt, edits=cb.Add("embed", s * unit, pos=i))) for s in (step, -step))
            return float((there - back)[0]) / (2 * step)

        assert abs(slope(direction[0, i] / direction[0, i].norm()) - norm) < 1e-5 * max(1, norm)
        assert abs(slope(torch.nn.functional.normalize(torch.randn(model.d_model).double(), dim=0))) < norm


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_1_is_zero_after_the_position_explained_and_only_there(name):
    model = shelf.model(name)
    scores = gradient_norm(model, shelf.ids((7,)), cb.logit_diff(3, 5, pos=3)).values[0]
    assert (scores[4:] == 0).all() and scores[3] > 0


def test_3_1_1_of_a_linear_model_is_the_norm_of_its_weights():
    model = by_hand.linear()
    weights = model.hf.lm_head.weight.detach()
    norms = gradient_norm(model, [4, 8, 15], cb.logit(7)).values[0]
    assert np.allclose(norms, [0, 0, weights[7].norm()])
    scores = gradient_x_input(model, [4, 8, 15], cb.logit(7)).values[0]
    assert np.allclose(scores, [0, 0, model.hf.transformer.wte.weight[15].detach() @ weights[7]])


def test_3_1_2_of_a_network_of_rectifiers_sums_to_its_output():
    model = by_hand.rectified()
    prompt = [4, 8, 15]
    value = float(METRIC(model.run(prompt))[0])
    assert abs(value) > 0.1
    assert np.allclose(gradient_x_input(model, prompt, METRIC).values.sum(), value, atol=1e-10)


def test_3_1_22_a_contrast_is_the_difference_of_two_attributions():
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 5))
    both = [gradient_x_input(model, prompts, cb.logit(t)).values for t in (3, 5)]
    assert np.allclose(gradient_x_input(model, prompts, METRIC).values, both[0] - both[1], atol=1e-10)


def test_the_target_decides_a_logit_and_its_probability_differ():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    by_logit, by_prob = (gradient_norm(model, prompt, metric(3)).values[0] for metric in (cb.logit, cb.prob))
    ratio = by_logit / by_prob
    assert ratio.max() / ratio.min() > 1.01


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("technique", [gradient_norm, gradient_x_input])
def test_padding_changes_nothing(technique, side):
    model, prompts = shelf.model("llama"), shelf.ids((8, 3), seed=2)
    metric = cb.logit_diff([3, 9], 5)
    with exact():
        both = technique(model, model.tokens(prompts, padding=side), metric)
        each = [technique(model, [p], cb.logit_diff([3, 9][row], 5)) for row, p in enumerate(prompts)]
    for row, (prompt, alone) in enumerate(zip(prompts, each, strict=True)):
        assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-10)
    assert np.isnan(both.values[1, 3:]).all() and both.token.values[1].tolist()[3:] == [""] * 5


def test_results_say_how_they_were_made():
    scores = gradient_x_input(shelf.model("gpt2"), [1, 2, 3], cb.logit_diff(3, 5))
    said = scores.attrs
    assert (said["entry"], said["metric"], said["target"], said["foil"]) == ("3.1.2", "logit_diff", 3, 5)
    assert said["family"] == "gpt2" and scores.to_netcdf() is not None
    assert gradient_norm(shelf.model("gpt2"), [1], cb.logit(torch.tensor([3]))).attrs["target"] == [3]


def test_what_is_no_metric_or_no_norm_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="cb.function"):
        gradient_x_input(model, [1, 2], lambda logits: logits)
    with pytest.raises(CasebackError, match="expected a metric"):
        gradient_x_input(model, [1, 2], "logit")
    with pytest.raises(OutOfRange, match="p is 0.5"):
        gradient_norm(model, [1, 2], cb.logit(1), p=0.5)
    with pytest.raises(OutOfRange):
        gradient_norm(model, [1, 2], cb.logit(1), p=float("nan"))
