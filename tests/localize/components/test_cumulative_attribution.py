"""PRIMER 3.2.2, 3.2.5: running totals of the shares, and what a logit lens reads."""

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.errors import CasebackError, UnknownSite
from caseback.localize.components.cumulative_attribution import cumulative_attribution
from caseback.localize.components.logit_attribution import logit_attribution
from exact import exact

METRIC = cb.logit_diff(3, 5)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_steps_are_the_layers_shares_and_the_last_is_the_metric(name):
    model, prompts = shelf.model(name), shelf.ids((7, 5))
    with exact():
        after = cumulative_attribution(model, prompts, METRIC)
        own = cumulative_attribution(model, prompts, METRIC, norm="own")
        shares = logit_attribution(model, prompts, METRIC, by="layer")
    layers = shares[shares.kind == "layer"]
    start = shares[shares.kind.isin(["embed", "pos_embed", "bias"])].sum("component")
    assert after.component.values.tolist() == ["embed", *layers.component.values.tolist()]
    assert np.allclose(after.diff("component"), layers.values, atol=1e-10)
    assert np.allclose(after[0], start, atol=1e-10)
    for made in (after, own):
        assert np.abs(made.attrs["gap"]).max() < 1e-10
        assert np.allclose(made[-1], shares.attrs["metric_value"], atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "granite", "cohere"])
def test_under_its_own_norm_each_stream_is_read_as_the_logit_lens_reads_it(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        own = cumulative_attribution(model, prompts, METRIC, norm="own")
        final = cumulative_attribution(model, prompts, METRIC)
        lens = logit_lens(model, prompts, targets=[3, 5], pos=-1).logit
    assert np.allclose(own, lens.isel(vocab=0) - lens.isel(vocab=1), atol=1e-10)
    assert not np.allclose(own[0], final[0], atol=1e-3)


def test_halves_of_a_layer_are_read_where_there_is_a_stream_between_them():
    model, prompts = shelf.model("gemma2"), shelf.ids((6,))
    with exact():
        halves = cumulative_attribution(model, prompts, METRIC, mid=True)
        branches = logit_attribution(model, prompts, METRIC, by="branch")
        layers = cumulative_attribution(model, prompts, METRIC)
    assert halves.component.values[:3].tolist() == ["embed", "attn 0", "MLP 0"]
    assert np.allclose(halves.diff("component"), branches[branches.kind.isin(["attn", "mlp"])].values, atol=1e-10)
    assert np.allclose(halves[::2], layers.values, atol=1e-10)
    with pytest.raises(UnknownSite, match="resid_mid"):
        cumulative_attribution(shelf.model("gptj"), prompts, METRIC, mid=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, prompts = shelf.model("llama"), shelf.ids((8, 4), seed=2)
    with exact():
        both = cumulative_attribution(model, model.tokens(prompts, padding=side), METRIC, norm="own")
        for row, prompt in enumerate(prompts):
            alone = cumulative_attribution(model, [prompt], METRIC, norm="own")
            assert np.allclose(both[:, row], alone[:, 0], atol=1e-10)


def test_an_unknown_norm_is_refused():
    with pytest.raises(CasebackError, match="final"):
        cumulative_attribution(shelf.model("gpt2"), shelf.ids((5,)), METRIC, norm="frozen")
