"""PRIMER 3.2.8 to 3.2.11: means by template, noise, neurons, and the constants that cost least."""

import numpy as np
import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TokensError, UnknownSite
from caseback.localize.components.ablation import ablate
from caseback.localize.components.machinery.noise import embedding_std, noised
from caseback.localize.components.optimal_constants import optimal_constants
from caseback.model.graph.units import Neuron, components_of
from exact import exact

METRIC = cb.logit_diff(3, 5)
PROMPTS = shelf.ids((6, 6, 6, 6))


def test_3_2_9_a_template_s_mean_is_that_of_its_own_prompts():
    model = shelf.model("llama")
    labels = ["a", "b", "a", "b"]
    with exact():
        for per_position in (False, True):
            both = ablate(model, PROMPTS, METRIC, groups=labels, per_position=per_position)
            for label in "ab":
                mine = [b for b in range(4) if labels[b] == label]
                alone = ablate(model, [PROMPTS[b] for b in mine], METRIC, per_position=per_position)
                np.testing.assert_allclose(both.values[:, mine], alone.values, atol=1e-9)
        one = ablate(model, PROMPTS, METRIC, groups=["x"] * 4)
        np.testing.assert_allclose(one, ablate(model, PROMPTS, METRIC), atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_3_2_9_means_over_other_prompts_of_the_template_whatever_the_padding(side):
    model, prompts, over = shelf.model("gpt2"), shelf.ids((6, 4)), shelf.ids((7, 4, 6, 5), seed=5)
    with exact():
        both = ablate(
            model,
            model.tokens(prompts, padding=side),
            METRIC,
            over=model.tokens(over, padding=side),
            groups=[0, 1],
            over_groups=[0, 1, 0, 1],
            pos=[1, -1],
        )
        for b, chosen in ((0, [over[0], over[2]]), (1, [over[1], over[3]])):
            alone = ablate(model, [prompts[b]], METRIC, over=chosen, pos=[1, -1])
            np.testing.assert_allclose(both.values[:, b], alone.values[:, 0], atol=1e-9)


def test_templates_that_do_not_fit_are_refused():
    model = shelf.model("gpt2")
    over = {"over": shelf.ids((5,), seed=2), "groups": ["a"] * 4}
    for given, told in (
        ({"groups": ["a"]}, "1 labels in groups for 4 prompts"),
        ({**over, "over_groups": ["b"]}, "no reference prompt has the label 'a': they have 'b'"),
        ({**over, "over_groups": ["a"], "per_position": True}, "position 5, and no reference prompt labeled 'a'"),
        (over, "need groups=, and over_groups="),
    ):
        with pytest.raises(TokensError, match=told):
            ablate(model, PROMPTS, METRIC, **given)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "opt_projected"])
def test_3_2_11_noise_is_resampling_from_runs_with_noisy_embeddings(name):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        found = ablate(model, prompts, METRIC, kind="noise", samples=3, sigma=0.7, seed=4)
        tokens = model.tokens(prompts)
        copies, noise = noised(model, tokens, [list(range(6)), list(range(4))], sigma=0.7, samples=3, seed=4)
        source = model.run(copies, read=["z"], edits=noise)
        clean = METRIC(model.run(tokens))
        each = []
        for s in range(3):
            put = source["z", 1][s::3][:, :, 2]
            each.append(clean - METRIC(model.run(tokens, edits=cb.Replace("z", put, layer=1, head=2))))
        each = torch.stack(each)
        np.testing.assert_allclose(found.sel(component="L1H2"), each.mean(0), atol=1e-9)
        np.testing.assert_allclose(found.spread.sel(component="L1H2"), each.std(0, correction=0), atol=1e-9)
        alone = ablate(model, [prompts[1]], METRIC, kind="noise", samples=3, sigma=0.7, seed=4)
        np.testing.assert_allclose(found.values[:, 1], alone.values[:, 0], atol=1e-9)


def test_3_2_11_the_default_noise_is_three_deviations_of_the_embeddings():
    model = shelf.model("gpt2")
    assert embedding_std(model) == pytest.approx(float(model.weights.W_E.std(correction=0)), rel=1e-9)
    found = ablate(model, PROMPTS[:1], METRIC, kind="noise", samples=1, components="mlps")
    assert found.attrs["sigma"] == pytest.approx(3 * embedding_std(model))
    for given, told in (({"sigma": 0.0}, "sigma=0.0"), ({"samples": 0}, "samples=0"), ({"seed": -1}, "seed=-1")):
        with pytest.raises(CasebackError, match=told):
            ablate(model, PROMPTS, METRIC, kind="noise", **given)


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_neuron_is_its_entry_of_what_multiplies_w_out(name, kind):
    model, other = shelf.model(name), shelf.ids((6,) * 4, seed=8)
    with exact():
        found = ablate(model, PROMPTS, METRIC, components="neurons", layers=[1], kind=kind, corrupt=other, pos=-1)
        width = model.weights.W_out[1].shape[0]
        assert found.component.values.tolist() == [f"L1N{i}" for i in range(width)]
        assert set(found["kind"].values.tolist()) == {"neuron"} and found.neuron.values.tolist() == list(range(width))
        acts = model.run(other if kind == "resample" else PROMPTS, read=["mlp_post"])["mlp_post", 1]
        put = {"zero": 0 * acts, "mean": acts.mean((0, 1)).expand_as(acts), "resample": acts}[kind][:, -1]
        clean = METRIC(model.run(PROMPTS))
        for i in (0, width - 1):
            edited = model.run(PROMPTS, edits=cb.Replace("mlp_post", put[:, i], layer=1, pos=-1, unit=i))
            np.testing.assert_allclose(found.values[i], clean - METRIC(edited), atol=1e-9)
        by_name = ablate(model, PROMPTS, METRIC, components=["L1N2", "L0H1"], kind=kind, corrupt=other, pos=-1)
        np.testing.assert_allclose(by_name.values[0], found.values[2], atol=1e-9)


def test_an_optimal_constant_is_where_the_loss_is_least():
    """A loss that is quadratic in the last MLP's write through a linear end: the optimum is known to be the mean."""
    hf = zoo.tiny("gpt2")
    hf.transformer.ln_f = nn.Identity()
    model = cb.load(hf)
    tokens = model.tokens(PROMPTS)
    aim = METRIC(model.run(tokens)).detach()

    def squared(x: torch.Tensor) -> torch.Tensor:
        return (x[:, 3] - x[:, 5] - aim).pow(2) if len(x) == 4 else (x[:, 3] - x[:, 5] - aim.repeat(len(x) // 4)).pow(2)

    last = [(model.n_layers - 1, None)]
    fitted = optimal_constants(model, tokens, last, cb.function(squared), steps=80, lr=0.05)
    # a constant shifts the metric by one number: the best it can do is the variance of what is lost
    writes = model.run(tokens, read=["mlp_out"])["mlp_out", -1][:, -1]
    direction = (hf.lm_head.weight[3] - hf.lm_head.weight[5]).detach()
    least = float((writes @ direction).var(correction=0))
    assert float(fitted.of_optimum) == pytest.approx(least, rel=2e-3) and float(fitted.of_mean) > least


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_optimal_constants_of_all_kinds_are_fitted_side_by_side_and_never_worse_than_the_mean(name):
    model = shelf.model(name)
    prompts = shelf.ids((6, 4, 5))
    chosen = ["L0H1", "MLP 1", "L2N3", "L1H0"]
    found = ablate(model, prompts, METRIC, components=chosen, kind="optimal", steps=25, lr=0.1)
    assert (found.loss_optimal <= found.loss_mean).all() and (found.loss_optimal < found.loss_mean).sum() >= 3
    again = ablate(model, prompts, METRIC, components=chosen[::-1], kind="optimal", steps=25, lr=0.1)
    np.testing.assert_allclose(found.loss_optimal.values, again.loss_optimal.values[::-1], rtol=1e-4)
    reference = model.run(prompts)
    tokens, loss = model.tokens(prompts), cb.kl(reference)
    fitted = optimal_constants(model, tokens, components_of(model, chosen), loss, steps=25, lr=0.1)
    for i, (value, where) in enumerate(
        zip(
            fitted.values,
            (
                {"site": "z", "layer": 0, "head": 1},
                {"site": "mlp_out", "layer": 1},
                {"site": "mlp_post", "layer": 2, "unit": 3},
            ),
            strict=False,
        )
    ):
        edited = model.run(prompts, edits=cb.Replace(value=value, **where))
        assert float(fitted.of_optimum[i]) == pytest.approx(float(loss(edited).mean()), rel=1e-5)
        effect = METRIC(reference) - METRIC(edited)
        np.testing.assert_allclose(found.values[i], effect, atol=1e-5)


def test_the_optimum_is_seeded_where_steps_take_a_part_of_the_prompts():
    model, prompts = shelf.model("gpt2"), shelf.ids((5,) * 6)
    tokens, loss = model.tokens(prompts), cb.loss()
    fit = lambda seed: optimal_constants(model, tokens, [(0, 1)], loss, steps=6, minibatch=2, seed=seed)  # noqa: E731
    one, same, other = fit(1), fit(1), fit(2)
    assert torch.equal(one.values[0], same.values[0]) and not torch.equal(one.values[0], other.values[0])
    with pytest.raises(CasebackError, match="steps=0"):
        optimal_constants(model, tokens, [(0, 1)], loss, steps=0)
    with pytest.raises(CasebackError, match="'constant' has no gradient"):
        flat = cb.function(lambda x: torch.ones(len(x), dtype=x.dtype), name="constant")
        optimal_constants(model, tokens, [(0, 1)], flat, steps=2)


def test_neurons_that_are_not_there_are_refused():
    model = shelf.model("gpt2")
    with pytest.raises(OutOfRange, match="neurons 0 to"):
        ablate(model, PROMPTS, METRIC, components=[Neuron(0, 10_000)], kind="zero")
    with pytest.raises((UnknownSite, SiteAbsent), match="each expert has its own neurons"):
        ablate(shelf.model("mixtral"), PROMPTS, METRIC, components="neurons", kind="zero")
    with pytest.raises(CasebackError, match="not with names"):
        ablate(model, PROMPTS, METRIC, components=["L0H0"], layers=[0])
