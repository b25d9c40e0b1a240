"""PRIMER 3.1.3, a path for each token: by plain autograd, complete token by token, whatever is run anew."""

import by_hand
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.localize.inputs.gradients.sequential_ig import sequential_integrated_gradients
from caseback.model.sweeping.suffix_gradients import suffix_gradients
from exact import exact

METRIC = cb.logit_diff(3, 5)


def difference(logits):
    return (logits[:, -1, 3] - logits[:, -1, 5]).sum()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_3_1_3_each_path_is_the_integral_by_plain_autograd(name):
    model, prompt = shelf.model(name), shelf.ids((4,))
    with exact():
        end = by_hand.embeddings(model.hf, prompt)
        away = model.hf.get_input_embeddings()(torch.tensor(9)).detach()
        scores = sequential_integrated_gradients(
            model, prompt, METRIC, baseline=9, steps=6, rule="riemann_middle", by_dimension=True
        )
        for i in range(4):
            total = torch.zeros(model.d_model, dtype=torch.float64)
            for share in (np.arange(6) + 0.5) / 6:
                there = end.clone()
                there[0, i] = away + share * (end[0, i] - away)
                total += by_hand.gradient(model.hf, there, difference)[0, i] / 6
            assert np.allclose(scores.values[0, i], (total * (end[0, i] - away)).numpy(), atol=1e-10)


@pytest.mark.parametrize("name", shelf.FEW)
def test_the_gradient_of_a_suffix_is_that_of_the_whole(name):
    """Whatever the family: windows, ALiBi, grouped heads, experts, latent attention."""
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        tokens = model.tokens(prompts, padding="left")
        run = model.run(tokens, read=["embed"], grad=True)
        whole = run.grad(METRIC, ["embed"])["embed"]
        where = torch.tensor([(0, 0), (1, 3), (0, 4), (1, 1)])
        at = lambda points: run["embed"].detach()[b[points], i[points] + tokens.first[b[points]]]  # noqa: E731
        b, i = where.T
        made = list(suffix_gradients(model.anatomy, tokens, METRIC, b, i, at, token_budget=7))
        assert len(made) > 1
        for points, values, gradient in made:
            assert torch.allclose(values, METRIC(run)[b[points]], atol=1e-10)
            assert torch.allclose(gradient, whole[b[points], i[points] + tokens.first[b[points]]], atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_3_1_3_completeness_token_by_token(name):
    """Each score is what replacing that token's embedding alone takes from the metric."""
    model, prompts = shelf.model(name), shelf.ids((5, 3), seed=1)
    with exact():
        gaps = []
        for steps in (4, 48):
            scores = sequential_integrated_gradients(model, prompts, METRIC, baseline=9, steps=steps)
            gaps.append(np.nanmax(np.abs(scores.completeness_gap.values)))
        away = model.run([[9]], read=["embed"])["embed"][0, 0]
        for row, prompt in enumerate(prompts):
            for i in range(len(prompt)):
                replaced = METRIC(model.run([prompt], edits=cb.Replace("embed", away, pos=i)))
                assert abs(scores.baseline_value.values[row, i] - float(replaced[0])) < 1e-10
    assert gaps[1] < 1e-4 and gaps[1] < gaps[0]
    change = np.array(scores.attrs["metric_value"])[:, None] - scores.baseline_value.values
    assert np.allclose(scores.values - change, scores.completeness_gap.values, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_budgets_change_nothing(side):
    model, prompts = shelf.model("llama"), shelf.ids((6, 3))
    with exact():
        tokens = model.tokens(prompts, padding=side)
        both = sequential_integrated_gradients(model, tokens, METRIC, steps=5, token_budget=11)
        for row, prompt in enumerate(prompts):
            alone = sequential_integrated_gradients(model, [prompt], METRIC, steps=5)
            assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-10)
    assert np.isnan(both.values[1, 3:]).all() and np.isnan(both.completeness_gap.values[1, 3:]).all()


def test_what_the_metric_cannot_see_gets_nothing_and_is_not_run(hooks_only_look):
    model, rows = shelf.model("gpt2"), []
    handle = model.hf.transformer.h[0].register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    try:
        scores = sequential_integrated_gradients(model, shelf.ids((7,)), cb.logit_diff(3, 5, pos=2), steps=4)
    finally:
        handle.remove()
    assert (scores.values[0, 3:] == 0).all() and (scores.values[0, :3] != 0).all()
    # after two whole passes, suffixes of 3, 2 and 1 tokens at 4 nodes and the baseline
    assert sum(rows) == 2 * 7 + 5 * (3 + 2 + 1)


def test_metrics_of_all_positions_are_explained_too():
    with exact():
        scores = sequential_integrated_gradients(shelf.model("gpt2"), shelf.ids((4, 4)), cb.loss(), steps=60)
    assert np.abs(scores.completeness_gap.values).max() < 1e-5


def test_the_papers_norm():
    model, prompts = shelf.model("gpt2"), shelf.ids((4, 4))
    plain, unit = (sequential_integrated_gradients(model, prompts, METRIC, steps=4, normalise=n) for n in (False, True))
    assert np.allclose(unit.values, plain.values / np.linalg.norm(plain.values, axis=1, keepdims=True))
    assert unit.attrs["normalised"] == 1 and np.allclose(unit.completeness_gap, plain.completeness_gap)


def test_3_1_22_a_contrast_is_the_difference_of_two_attributions():
    model, prompts = shelf.model("gpt2"), shelf.ids((4,))
    both, *each = (
        sequential_integrated_gradients(model, prompts, m, steps=4).values for m in (METRIC, cb.logit(3), cb.logit(5))
    )
    assert np.allclose(both, each[0] - each[1], atol=1e-10)


def test_settings_that_make_no_sense_are_refused():
    model = shelf.model("gpt2")
    for wrong in ({"steps": 0}, {"token_budget": 0}, {"rule": "trapezoid", "steps": 1}):
        with pytest.raises(OutOfRange):
            sequential_integrated_gradients(model, [1, 2], METRIC, **wrong)
    with pytest.raises(CasebackError, match="Did you mean riemann_left"):
        sequential_integrated_gradients(model, [1, 2], METRIC, rule="riemann_lef")
    with pytest.raises(CasebackError, match="does not fit"):
        sequential_integrated_gradients(model, [1, 2], METRIC, baseline=torch.zeros(5, 32))
    with pytest.raises(TargetError, match="same token"):
        sequential_integrated_gradients(model, [1, 2], cb.logit_diff(3, 3))
