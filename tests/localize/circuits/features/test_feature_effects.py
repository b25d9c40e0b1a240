"""Effects of features, errors, neurons and heads: completeness, exact patches, sums, what is refused."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import attached
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TokensError
from caseback.jobs import budget
from caseback.localize.circuits import feature_effects
from caseback.localize.components import attribution_patching
from exact import exact
from planted_circuits import CLEAN, CORRUPT, METRIC, random_dictionaries

FAMILIES = "gpt2 llama gptj gemma2".split()


@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_29_integrated_gradients_of_features_and_error_sum_to_what_patching_both_does(name):
    model = shelf.model(name)
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        effects = feature_effects(
            model, CLEAN, CORRUPT, METRIC, method="integrated_gradients", steps=90, rule="gauss_legendre"
        )
        patched = [
            METRIC(model.run(CLEAN, edits=cb.Resample("resid_post", model.run(CORRUPT, read=["resid_post"]), layer=i)))
            for i in range(model.n_layers)
        ]
    total = torch.stack(patched).detach().numpy() - effects.clean.values
    np.testing.assert_allclose(effects.measured, total, atol=1e-12)
    np.testing.assert_allclose(effects.gap, 0, atol=1e-6)
    np.testing.assert_allclose(effects.gap, effects.estimated - effects.measured, atol=1e-12)
    by_site = effects.effect.groupby("layer_index").sum()
    np.testing.assert_allclose(by_site, effects.estimated.sum("batch"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["attribution", "integrated_gradients"])
@pytest.mark.parametrize("name", FAMILIES)
def test_3_2_29_of_a_linear_metric_of_the_site_the_sum_is_the_total_effect(name, method):
    model = shelf.model(name)
    probe = cb.activation("resid_post", layer=1, direction=torch.randn(model.d_model).double())
    sites = [("feature", 1), ("feature_error", 1)]
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        effects = feature_effects(model, CLEAN, CORRUPT, probe, sites=sites, method=method)
    np.testing.assert_allclose(effects.gap, 0, atol=1e-8)
    np.testing.assert_allclose(effects.measured[0], effects.corrupt - effects.clean, atol=1e-8)


@pytest.mark.parametrize("normalization", ["none", "layer_norm"])
@pytest.mark.parametrize("site", ["resid_post", "attn_out"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_3_2_29_exact_effects_are_single_patches(name, site, normalization):
    model = shelf.model(name)
    dictionaries = random_dictionaries(model, site, layers=[1], normalization=normalization)
    with attached(model, dictionaries), exact():
        sites = [("feature", 1), ("feature_error", 1)]
        effects = feature_effects(model, CLEAN, CORRUPT, METRIC, sites=sites, method="exact").effect
        other = model.run(CORRUPT, read=["feature", "feature_error"])
        plain = METRIC(model.run(CLEAN)).detach()
        for row in [*range(6), *range(6, len(effects), 29)]:
            entry = effects[row]
            at = {"layer": 1, "pos": int(entry.pos_index), "prompt": int(entry.batch_index)}
            whole = str(entry.kind.values) == "error"
            at |= {} if whole else {"unit": int(entry.unit_index)}
            edit = cb.Resample("feature_error" if whole else "feature", other, **at)
            patched = METRIC(model.run(CLEAN, edits=edit)).detach()
            np.testing.assert_allclose(entry, (patched - plain)[int(entry.batch_index)], atol=1e-11)


def test_transcoders_heads_neurons_and_embeddings_too():
    model = shelf.model("llama")
    sites = ["t", "z", "mlp_post", "embed"]
    with attached(model, random_dictionaries(model, "mlp_in", "mlp_out"), name="t"), exact():
        other = model.run(CORRUPT, read=sites)
        plain = METRIC(model.run(CLEAN)).detach()
        for site, part in (("t", "unit"), ("z", "head"), ("mlp_post", "unit"), ("embed", None)):
            effects = feature_effects(model, CLEAN, CORRUPT, METRIC, sites=site, method="exact").effect
            for row in range(0, len(effects), 1 + len(effects) // 4):
                entry = effects[row]
                at = {"pos": int(entry.pos_index), "prompt": int(entry.batch_index)}
                at |= {} if part is None else {part: int(entry.unit_index), "layer": int(entry.layer_index)}
                patched = METRIC(model.run(CLEAN, edits=cb.Resample(site, other, **at))).detach()
                np.testing.assert_allclose(entry, (patched - plain)[int(entry.batch_index)], atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "mistral"])
def test_3_2_15_neurons_sum_to_their_mlps_estimate(name):
    model = shelf.model(name)
    with exact():
        neurons = feature_effects(model, CLEAN, CORRUPT, METRIC, sites="mlp_post")
        heads = feature_effects(model, CLEAN, CORRUPT, METRIC, sites="z")
        whole = attribution_patching(model, CLEAN, CORRUPT, METRIC, sites=["mlp_out", "z"])
    np.testing.assert_allclose(neurons.estimated, whole["mlp_out"].sum("pos"), atol=1e-10)
    table = heads.effect
    for entry in table[:: max(1, len(table) // 20)]:
        there = {"layer": int(entry.layer_index), "head": int(entry.unit_index)}
        there |= {"pos": int(entry.pos_index), "batch": int(entry.batch_index)}
        np.testing.assert_allclose(entry, whole["z"].isel(there), atol=1e-11)


def test_without_counterfactuals_nodes_go_to_zero():
    model = shelf.model("llama")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        exactly = feature_effects(model, CLEAN, None, METRIC, method="exact", top=5).effect
        plain = METRIC(model.run(CLEAN)).detach()
        for entry in exactly:
            at = {"layer": int(entry.layer_index), "pos": int(entry.pos_index), "prompt": int(entry.batch_index)}
            whole = str(entry.kind.values) == "error"
            at |= {} if whole else {"unit": int(entry.unit_index)}
            patched = METRIC(model.run(CLEAN, edits=cb.Zero("feature_error" if whole else "feature", **at)))
            np.testing.assert_allclose(entry, (patched.detach() - plain)[int(entry.batch_index)], atol=1e-11)


@pytest.mark.parametrize("method", ["attribution", "integrated_gradients"])
def test_how_much_is_taken_at_once_changes_nothing(method):
    model = shelf.model("llama")
    tokens, other = model.tokens(CLEAN, padding="left"), model.tokens(CORRUPT, padding="right")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        at_once = feature_effects(model, CLEAN, CORRUPT, METRIC, method=method)
        with budget.override(attribution_prompts=1, gradient_tokens=16):
            apart = feature_effects(model, tokens, other, METRIC, method=method)
    assert sorted(at_once.node.values) == sorted(apart.node.values)
    for one, other in zip(at_once.effect.values, apart.effect.values, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(at_once.measured, apart.measured, atol=1e-11)


def test_thresholds_come_before_sums_over_positions():
    model = shelf.model("gpt2")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        each = feature_effects(model, CLEAN, CORRUPT, METRIC, threshold=0.5).effect
        for how, reduce in (("sum", np.sum), ("max", lambda x: x[np.abs(x).argmax()])):
            summed = feature_effects(model, CLEAN, CORRUPT, METRIC, threshold=0.5, aggregation=how).effect
            assert (summed.pos_index == -1).all()
            for entry in summed:
                name, prompt = str(entry.node.values), int(entry.batch_index)
                mine = [e for e in each if str(e.node.values).split("@")[0] == name and int(e.batch_index) == prompt]
                np.testing.assert_allclose(entry, reduce(np.array([float(e) for e in mine])), rtol=1e-12)
    assert float(abs(each).min()) > 0.5


def test_what_no_dictionary_covers_is_error_and_said():
    model = shelf.model("llama")
    with attached(model, random_dictionaries(model, "resid_post", layers=[0])), exact():
        effects = feature_effects(
            model, CLEAN, CORRUPT, METRIC, method="integrated_gradients", steps=90, rule="gauss_legendre"
        )
    assert effects.attrs["uncovered"] == '["resid_post.1", "resid_post.2"]'
    assert effects.site.values.tolist() == ["resid_post.0", "resid_post.1", "resid_post.2"]
    np.testing.assert_allclose(effects.errors[1:], effects.estimated[1:])
    np.testing.assert_allclose(effects.gap, 0, atol=1e-6)


def test_the_same_prompt_twice_has_no_effects():
    model = shelf.model("gemma2")
    with attached(model, random_dictionaries(model, "resid_post")), exact():
        effects = feature_effects(model, CLEAN, CLEAN, METRIC)
    assert len(effects.entry) == 0
    np.testing.assert_allclose(effects.measured, 0, atol=1e-12)


def test_what_is_refused_is_said():
    model = shelf.model("llama")
    with (
        attached(model, random_dictionaries(model, "resid_post")),
        attached(model, random_dictionaries(model, "resid_post"), name="twin"),
    ):
        for error, says, how in (
            (TokensError, "token-aligned", {"corrupt": shelf.ids((6, 5))}),
            (SiteAbsent, "same names", {"sites": ["feature", "twin"]}),
            (SiteAbsent, "no parts that are nodes", {"sites": "resid_pre"}),
            (SiteAbsent, "no site is given", {"sites": []}),
            (CasebackError, "no site is called", {"sites": "features"}),
            (CasebackError, "is unknown", {"method": "ig"}),
            (CasebackError, "is unknown", {"aggregation": "mean"}),
            (OutOfRange, "steps=0", {"steps": 0}),
            (OutOfRange, "threshold", {"threshold": -1.0}),
            (CasebackError, "no run to restore", {"corrupt": None, "direction": "denoising"}),
            (CasebackError, "not differentiable", {"metric": cb.function(lambda logits: logits.argmax(-1).double())}),
        ):
            given = {"corrupt": CORRUPT, "metric": METRIC, **how}
            with pytest.raises(error, match=says):
                feature_effects(model, CLEAN, **given)
