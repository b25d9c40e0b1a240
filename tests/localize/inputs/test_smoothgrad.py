"""PRIMER 3.1.4: the gradient as noise vanishes, unbiased on a quadratic, its spread told; captum with equal noise."""

import by_hand
import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.localize.inputs.gradients.gradients import gradient_norm, gradient_x_input
from caseback.localize.inputs.gradients.smoothgrad import smoothgrad
from exact import exact

METRIC = cb.logit_diff(3, 5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral"])
def test_3_1_4_is_the_gradient_as_the_noise_vanishes(name):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        norm, product = gradient_norm(model, prompts, METRIC), gradient_x_input(model, prompts, METRIC)
        for sigma, off in ((0.0, 1e-10), (1e-6, 1e-3)):
            smooth = smoothgrad(model, prompts, METRIC, sigma=sigma, draws=4)
            times = smoothgrad(model, prompts, METRIC, sigma=sigma, draws=4, times_input=True)
            assert np.allclose(smooth, norm, atol=off, equal_nan=True)
            assert np.allclose(times, product, atol=off, equal_nan=True)
    assert (np.nan_to_num(smooth.standard_error.values) < 1e-2).all()


def test_3_1_4_is_unbiased_on_a_quadratic():
    """The metric squares a logit that is linear in the last embedding: its smoothed gradient is its gradient."""
    model, prompt = by_hand.linear(), [4, 8, 15]
    metric = cb.function(lambda logits: (logits[:, 3] ** 2).clone())
    exactly = gradient_x_input(model, prompt, metric).values[0, 2]
    few, many = (smoothgrad(model, prompt, metric, sigma=0.5, draws=n, times_input=True) for n in (20, 2000))
    assert abs(many.values[0, 2] - exactly) < 4 * many.standard_error.values[0, 2]
    # the spread is that of a Gaussian pushed through the gradient, 2 (w . e) (w . x)
    w, x = model.hf.lm_head.weight[3].detach(), model.hf.transformer.wte.weight[15].detach()
    told = float(2 * 0.5 * w.norm() * (w @ x).abs()) / 2000**0.5
    assert abs(many.standard_error.values[0, 2] / told - 1) < 0.1
    assert few.standard_error.values[0, 2] > 5 * many.standard_error.values[0, 2]
    assert (many.values[0, :2] == 0).all()


def test_the_standard_error_is_the_spread_over_seeds():
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    made = [smoothgrad(model, prompt, METRIC, draws=8, seed=s, times_input=True) for s in range(24)]
    spread = np.std([m.values[0] for m in made], axis=0, ddof=1)
    told = np.mean([m.standard_error.values[0] for m in made], axis=0)
    assert np.allclose(spread, told, rtol=0.5)


def test_the_noise_is_a_share_of_the_prompts_range():
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 3))
    scores = smoothgrad(model, prompts, METRIC, draws=2, noise=0.2)
    for row, prompt in enumerate(prompts):
        x = model.run([prompt], read=["embed"])["embed"]
        assert abs(scores.attrs["sigma"][row] - 0.2 * float(x.max() - x.min())) < 1e-12


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_batches_and_seeds(side):
    model, prompts = shelf.model("llama"), shelf.ids((6, 3))
    with exact():
        tokens = model.tokens(prompts, padding=side)
        both = smoothgrad(model, tokens, METRIC, draws=5, max_batch=3, seed=2)
        for row, prompt in enumerate(prompts):
            alone = smoothgrad(model, [prompt], METRIC, draws=5, seed=2)
            for mine, theirs in ((both, alone), (both.standard_error, alone.standard_error)):
                assert np.allclose(mine.values[row, : len(prompt)], theirs.values[0], atol=1e-10)
        other = smoothgrad(model, tokens, METRIC, draws=5, seed=3)
    assert np.nanmax(np.abs(other.values - both.values)) > 1e-4
    assert np.isnan(both.values[1, 3:]).all() and np.isnan(both.standard_error.values[1, 3:]).all()


def test_dimensions_stay_if_asked_for():
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    wide, norm = (smoothgrad(model, prompt, METRIC, draws=3, by_dimension=d) for d in (True, False))
    assert np.allclose(np.linalg.norm(wide.values, axis=-1), norm.values)
    wide, product = (
        smoothgrad(model, prompt, METRIC, draws=3, times_input=True, by_dimension=d) for d in (True, False)
    )
    assert np.allclose(wide.sum("d_model"), product)


def test_3_1_22_a_contrast_is_the_difference_of_two_attributions():
    model, prompts = shelf.model("gpt2"), shelf.ids((4,))
    both, *each = (
        smoothgrad(model, prompts, m, draws=3, times_input=True).values for m in (METRIC, cb.logit(3), cb.logit(5))
    )
    assert np.allclose(both, each[0] - each[1], atol=1e-10)


def test_settings_that_make_no_sense_are_refused():
    model = shelf.model("gpt2")
    for wrong in ({"draws": 1}, {"noise": -0.1}, {"sigma": float("nan")}, {"p": 0.5}, {"max_batch": 0}):
        with pytest.raises(OutOfRange):
            smoothgrad(model, [1, 2], METRIC, **wrong)
    with pytest.raises(TargetError, match="same token"):
        smoothgrad(model, [1, 2], cb.logit_diff(3, 3))
    with pytest.raises(CasebackError, match="cb.function"):
        smoothgrad(model, [1, 2], lambda logits: logits)


@pytest.mark.peers
def test_captum_says_the_same_with_equal_noise():
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (extra: peers)")
    model, prompts = shelf.model("llama"), shelf.ids((6,))
    forward = lambda x: model.hf(inputs_embeds=x).logits[:, -1, 3]  # noqa: E731
    with exact():
        embeds = by_hand.embeddings(model.hf, prompts)
        torch.manual_seed(7)
        theirs = attr.NoiseTunnel(attr.Saliency(forward)).attribute(
            embeds, nt_type="smoothgrad", nt_samples=6, nt_samples_batch_size=1, stdevs=0.2, abs=False
        )
        ours = smoothgrad(model, prompts, cb.logit(3), draws=6, sigma=0.2, seed=7, by_dimension=True)
    # captum's stdev is a float32
    assert np.allclose(ours.values, theirs.detach().numpy(), atol=1e-6) and np.abs(ours.values).max() > 1e-2


@pytest.mark.peers
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_captum_says_the_same_of_gradients(name):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (extra: peers)")
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    forward = lambda x: model.hf(inputs_embeds=x).logits[:, -1, 3]  # noqa: E731
    with exact():
        embeds = by_hand.embeddings(model.hf, prompts).requires_grad_()
        saliency = attr.Saliency(forward).attribute(embeds, abs=False)
        product = attr.InputXGradient(forward).attribute(embeds)
        norm = gradient_norm(model, prompts, cb.logit(3))
        ours = gradient_x_input(model, prompts, cb.logit(3), by_dimension=True)
    assert np.allclose(norm.values, saliency.norm(dim=-1).detach().numpy(), atol=1e-10)
    assert np.allclose(ours.values, product.detach().numpy(), atol=1e-10)
