"""Another model's parts in this one's pass: nothing between equal models, all of a planted change where it was made."""

import copy

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.errors import CasebackError, EditError, TokensError
from caseback.localize.components import patch_models
from exact import exact
from zoo import tiny

PROMPTS = [[1, 5, 2, 7, 3], [4, 6, 1]]
METRIC = cb.logit_diff(3, 4)


def pair(family="gpt2"):
    model = cb.load(tiny(family).double())
    return model, cb.load(copy.deepcopy(model.hf))


@pytest.mark.parametrize("site", ["resid_pre", "z", "mlp_out"])
def test_5_4_9_between_equal_models_nothing_changes(site):
    model, same = pair()
    patched = patch_models(model, same, PROMPTS, METRIC, site=site, normalise=False)
    assert float(abs(patched.effect).max()) < 1e-12
    with pytest.raises(CasebackError, match="other and own have the same metric"):
        patch_models(model, same, PROMPTS, METRIC)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_5_4_9_what_tuning_changed_is_found_where_it_was_changed(family):
    model, other = pair(family)
    with torch.no_grad():  # another value matrix of layer 1 changes z there, and nothing before it
        other.weights.W_V[1].mul_(-1.5)
    with exact():
        by_layer = patch_models(model, other, PROMPTS, METRIC, by=["layer"])
        np.testing.assert_allclose(by_layer.recovery.sel(layer=1), 1, atol=1e-9)
        np.testing.assert_allclose(by_layer.effect.sel(layer=0), 0, atol=1e-12)
        every = patch_models(model, other, PROMPTS, METRIC)
        assert every.sizes["head"] == model.anatomy.layers[0].dims.n_heads
        # as a pass with that edit gives it, of every part
        source = other.run(PROMPTS, read=["z"])
        for layer in range(model.n_layers):
            edit = cb.Resample("z", source, layer=layer, head=1)
            alone = METRIC(model.run(PROMPTS, edits=edit)).numpy()
            np.testing.assert_allclose(every["metric"].sel(layer=layer, head=1), alone, atol=1e-10)


def test_recovery_is_between_both_models():
    model, other = pair()
    with torch.no_grad():
        other.weights.W_V[1].mul_(-1.5)
    patched = patch_models(model, other, PROMPTS, METRIC, site="resid_pre", by=["layer", "pos"])
    own, theirs = (METRIC(one.run(PROMPTS)).numpy() for one in (model, other))
    np.testing.assert_allclose(patched.own, own)
    np.testing.assert_allclose(patched.other, theirs)
    expected = (patched["metric"] - own) / (theirs - own)
    np.testing.assert_allclose(patched.recovery, expected, atol=1e-12)
    assert patched.attrs["other_model"] == other.name


def test_left_padding_changes_nothing():
    model, other = pair()
    with torch.no_grad():
        other.weights.W_V[1].mul_(-1.5)
    one, two = (patch_models(model, other, model.tokens(PROMPTS, padding=side), METRIC) for side in ("left", "right"))
    np.testing.assert_allclose(one.recovery, two.recovery, atol=1e-10)


def test_models_that_do_not_fit_are_refused():
    model, other = pair()
    with pytest.raises(EditError, match="read-only"):
        patch_models(model, other, PROMPTS, METRIC, site="final_norm.scale")
    narrow = cb.load(tiny("llama").double())
    with pytest.raises((CasebackError, TokensError)):
        patch_models(model, narrow, PROMPTS, METRIC)


def test_a_source_of_another_model_is_swept_as_it_is_run():
    """Equal prompts make equal activations in one model only: the sweep once left such edits out."""
    model, other = pair()
    with torch.no_grad():
        other.weights.W_V[0].mul_(-1.5)
    source = other.run(PROMPTS, read=["resid_pre"])
    variants = [[cb.Resample("resid_pre", source, layer=layer)] for layer in range(1, model.n_layers)]
    swept = model.sweep(PROMPTS, variants, METRIC)
    for i, edits in enumerate(variants):
        np.testing.assert_allclose(swept.values[i], METRIC(model.run(PROMPTS, edits=edits)), atol=1e-10)
    assert float(abs(swept - swept.clean).max()) > 1e-3
