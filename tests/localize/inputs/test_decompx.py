"""PRIMER 3.1.19 and 3.1.20: decompositions that sum to the logits, from both ends of the network."""

import weakref

import by_hand
import mixers
import numpy as np
import pytest
import torch
from live_memory import Live

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, SiteAbsent, TargetError
from caseback.jobs import budget
from caseback.localize import inputs
from caseback.localize.inputs.mixing.mixing import rolled
from caseback.model.backward.linearised import sites, steps
from exact import exact
from zoo_families import D_MODEL

DENSE = [name for name in shelf.DISTINCT if name not in mixers.MIXTURES and not name.startswith("deepseek")]


@pytest.mark.parametrize("name", DENSE)
def test_3_1_19_both_ends_agree_and_sum_to_the_logits(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        scores = inputs.decompx(model, prompts, mixers.METRIC)
        parts = inputs.decompx_logits(model, prompts, [3, 5])
        logits = model.run(prompts).logits[:, -1].detach()
    forwards = (parts.isel(vocab=0) - parts.isel(vocab=1)).values
    size = np.abs(forwards).max()
    assert np.allclose(scores.values, forwards[:, :-1], atol=1e-11 * size)
    assert np.allclose(scores.attrs["bias_share"], forwards[:, -1], atol=1e-11 * size)
    assert np.abs(scores.attrs["gap"]).max() < 1e-11 * size and np.abs(scores.values).max() > 1e-3
    cap = model.anatomy.logit_softcap
    total = parts.sum("key").values if cap is None else np.tanh(parts.sum("key").values / cap) * cap
    assert np.allclose(total, logits[:, [3, 5]], atol=1e-11 * max(1, size))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "mpt_clipped"])
def test_3_1_19_behind_every_layer_the_vectors_sum_to_the_stream(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        maps = inputs.decompx_maps(model, prompts)
        size = float(model.run(prompts, read=["resid_post"])["resid_post"].abs().max())
    assert maps.attrs["gap"] < 1e-11 * max(1.0, size) and maps.attrs["cumulative"] == 1
    assert np.allclose(maps.sum("key"), 1, atol=1e-12) and (np.triu(maps.values, 1) == 0).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "qwen3"])
def test_3_1_19_equals_gradient_times_input_of_the_frozen_model(name):
    """The Hugging Face modules themselves, their nonlinearities replaced by what they were held at."""
    hf, prompt = zoo.tiny(name), shelf.ids((6,))
    model = cb.load(hf)
    frozen = [cb.Freeze("pattern"), *([cb.Freeze("mlp_gate")] if "mlp_gate" not in model.anatomy.lacks else [])]
    with exact():
        scores = inputs.decompx(model, prompt, mixers.METRIC).values[0]
        freeze(model)
        run = model.run(prompt, read=["embed"], edits=frozen, grad=True)
        slope = run.grad(mixers.METRIC, ["embed"])["embed"]
        start = run["embed"].detach()
        if model.anatomy.pos_embed is not None:
            start = start + model.run(prompt, read=["pos_embed"])["pos_embed"]
    assert np.allclose(scores, (slope * start).sum(-1)[0], atol=1e-11)


def freeze(model):
    """Norms divide by a constant, activations without a gate multiply by one: both as they are at the input."""
    anatomy = model.anatomy
    for module, norm in dict(anatomy.norms).items():

        def forward(x, norm=norm):
            made = norm.frozen(x, norm.scale(x).detach())
            return made if norm.beta is None else made + norm.beta

        module.forward = forward
    for p in anatomy.layers:
        if p.w_gate is None and p.gate_up is None:
            act = p.act.forward

            def slope(x, act=act):
                return x * (act(x) / x).detach()

            p.act.forward = slope


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "mpt_clipped"])
def test_3_1_19_sources_can_go_through_the_layers_by_themselves(name):
    model, prompts = shelf.model(name), shelf.ids((7, 4))
    with exact():
        whole = inputs.decompx_maps(model, prompts), inputs.decompx_logits(model, prompts, [3, 5])
        for at_once in (1, 3):
            with budget.override(decompx_numbers=at_once * 2 * 7 * D_MODEL):
                maps, logits = inputs.decompx_maps(model, prompts), inputs.decompx_logits(model, prompts, [3, 5])
            assert np.allclose(maps, whole[0], atol=1e-12, equal_nan=True) and maps.attrs["gap"] < 1e-9
            assert np.allclose(logits, whole[1], atol=1e-10, equal_nan=True)


def test_3_1_19_memory_is_one_layers_whatever_the_number_of_layers():
    def peak(layers):
        config = zoo.FAMILIES["llama"]()
        config.num_hidden_layers = layers
        model = cb.load(zoo.from_config(config, torch.float32))
        run = model.run(shelf.ids((40,)), read=sites(model))
        with Live() as live:
            for step in steps(model, run):
                del step
        return live.peak / (40 * 41 * D_MODEL * 4)

    two, eight = peak(2), peak(8)
    assert eight < 1.01 * two and 2 < two < 20, (two, eight)


def test_3_1_19_no_more_than_one_layers_block_is_held():
    """The vectors of a layer are gone when the next layer's are there."""
    model, prompt = shelf.model("llama"), shelf.ids((8,))
    run, before, streams = model.run(prompt, read=sites(model)), [], []
    for step in steps(model, run):
        gone = [ref for ref in before if ref() is not None]
        assert not gone
        before += [weakref.ref(x) for x in (step.z, step.mlp)]
        streams.append(weakref.ref(step.stream))
        del step
        assert sum(ref() is not None for ref in streams) == 1


def test_3_1_19_the_biases_shared_among_the_tokens():
    model, prompts = shelf.model("gpt2"), shelf.ids((6, 4))
    with exact():
        apart, shared = (inputs.decompx(model, prompts, mixers.METRIC, bias=b) for b in ("apart", "shared"))
    assert np.allclose(shared.sum("pos"), apart.attrs["metric_value"], atol=1e-11)
    ratio = (shared - apart) / abs(apart)
    assert np.allclose(ratio.values[0], ratio.values[0, 0], atol=1e-9)


def test_3_1_19_of_a_linear_model_is_gradient_times_input():
    model = by_hand.rectified()
    prompt = [4, 8, 15]
    scores = inputs.decompx(model, prompt, mixers.METRIC)
    assert np.allclose(scores.sum(), scores.attrs["metric_value"][0], atol=1e-10)
    assert abs(scores.attrs["bias_share"][0]) < 1e-12


def test_3_1_19_at_every_position_by_own_positions():
    model, prompts = shelf.model("gpt2"), shelf.ids((6, 4))
    with exact():
        every = inputs.decompx_logits(model, model.tokens(prompts, padding="left"), [3], pos=None)
        alone = inputs.decompx_logits(model, [prompts[1]], [3], pos=None)
        last = inputs.decompx_logits(model, model.tokens(prompts, padding="left"), [3])
    assert every.dims == ("batch", "query", "key", "vocab") and np.isnan(every.values[1, 4:]).all()
    assert np.allclose(every.values[1, :4][:, [0, 1, 2, 3, 6]], alone.values[0], atol=1e-10)
    assert np.isnan(every.values[1, :4, 4:6]).all()
    assert np.allclose(last.values[1, [0, 1, 2, 3, 6]], alone.values[0, 3], atol=1e-10)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_1_20_scores_and_biases_sum_to_the_logit(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        scores, apart = (inputs.alti_logit(model, prompts, mixers.METRIC, mlps=m) for m in ("mixed", "apart"))
        logits = model.run(prompts).logits[:, -1].detach()
    size = max(1.0, float(np.abs(scores.values).max()))
    assert np.abs(scores.attrs["gap"]).max() < 1e-11 * size and np.abs(apart.attrs["gap"]).max() < 1e-11 * size
    cap = model.anatomy.logit_softcap
    value = np.array(scores.attrs["metric_value"])
    if cap is None:
        assert np.allclose(value, logits[:, 3] - logits[:, 5], atol=1e-11 * size)
    total = scores.sum("pos").values + scores.attrs["bias_share"]
    assert np.allclose(total, value, atol=1e-11 * size)
    moved = (scores - apart).sum("pos").values
    assert np.allclose(moved, scores.attrs["mlp_share"], atol=1e-11 * size)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2"])
def test_3_1_20_is_its_formula_written_out(name):
    """From the attribution by source of 3.2.4 and the table of ALTI, layer by layer."""
    model, prompt = shelf.model(name), shelf.ids((6,))
    with exact():
        scores = inputs.alti_logit(model, prompt, mixers.METRIC, mlps="apart").values[0]
        shares = cb.localize.components.source_attribution(model, prompt, mixers.METRIC).sum("head").values[..., 0]
        parts = cb.localize.components.logit_attribution(model, prompt, mixers.METRIC)
        products = rolled(torch.from_numpy(inputs.alti_maps(model, prompt).values.copy()), 0.0)[0].numpy()
    told = np.zeros(6)
    told[5] = float(sum(parts.sel(component=n)[0] for n in ("embed", "pos_embed") if n in parts.component.values))
    for layer in range(model.n_layers):
        told += shares[layer] @ (products[layer - 1] if layer else np.eye(6))
    assert np.allclose(scores, told, atol=1e-11)


def test_3_1_20_a_contrast_is_the_difference_of_two():
    model, prompt = shelf.model("llama"), shelf.ids((6,))
    with exact():
        for technique in (inputs.alti_logit, inputs.decompx):
            one, two, both = (technique(model, prompt, m).values for m in (cb.logit(3), cb.logit(5), mixers.METRIC))
            assert np.allclose(both, one - two, atol=1e-11)


@pytest.mark.parametrize("technique", [inputs.decompx, inputs.alti_logit])
def test_only_sums_of_logits_at_one_position(technique):
    model = shelf.model("gpt2")
    for metric in (cb.prob(3), cb.loss()):
        with pytest.raises(CasebackError):
            technique(model, [1, 2, 3], metric)
    with pytest.raises(TargetError, match="outside the vocabulary"):
        technique(model, [1, 2, 3], cb.logit(zoo.VOCAB))
    with pytest.raises(CasebackError, match="is unknown"):
        technique(model, [1, 2], mixers.METRIC, **({"bias": "x"} if technique is inputs.decompx else {"mlps": "x"}))


def test_mixtures_and_latent_attention_are_refused_by_name():
    for maps in (inputs.decompx_maps, lambda *a: inputs.decompx_logits(*a, [3])):
        with pytest.raises(SiteAbsent, match="mixtures of experts"):
            maps(shelf.model("mixtral"), [1, 2, 3])
