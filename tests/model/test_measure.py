"""A run that ends at a metric has the metric, the activations and the gradients of a whole run."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import SiteAbsent
from caseback.model.running.measure import measured
from exact import exact


def both(model, prompts, metric, site, **how):
    tokens = model.tokens(prompts)
    short, value = measured(model.anatomy, tokens, metric, read=[site], grad=True, **how)
    whole = model.run(tokens, read=[site], grad=True, **how)
    return short, value, whole


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_the_metric_and_its_gradients_are_those_of_a_whole_run(name):
    model, site, metric = shelf.model(name), ("z", 1), cb.logit_diff([3, 4], 5, pos=-2)
    with exact():
        short, value, whole = both(model, shelf.ids((7, 5)), metric, site)
        torch.testing.assert_close(value, metric(whole), rtol=1e-10, atol=1e-10)
        mine, theirs = short.grad(value, [site]), whole.grad(metric, [site])
        torch.testing.assert_close(mine[site], theirs[site], rtol=1e-8, atol=1e-10)
    assert torch.equal(short[site], whole[site]) and theirs[site].abs().max() > 0


@pytest.mark.parametrize("metric", [cb.log_prob(3), cb.loss(), cb.function(lambda x: x.pow(2).mean(-1)), cb.logit(3)])
def test_any_metric(metric):
    model = shelf.model("llama")
    with exact():
        _, value, whole = both(model, shelf.ids((6, 4)), metric, "mlp_out")
        torch.testing.assert_close(value, metric(whole), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "edit", [cb.Scale("z", 0.5, layer=1), cb.Scale("final_norm", 0.5), cb.Add("logits", 1.0, unit=3)]
)
def test_edits_behind_the_last_layer_count_too(edit):
    model, metric = shelf.model("gpt2"), cb.logit_diff(3, 5)
    with exact():
        _, value, whole = both(model, shelf.ids((6, 4)), metric, "mlp_out", edits=[edit])
        torch.testing.assert_close(value, metric(whole), rtol=1e-10, atol=1e-10)
        assert (value - metric(model.run(shelf.ids((6, 4))))).abs().min() > 1e-6


def test_nothing_is_unembedded_and_the_run_says_so(hooks_only_look):
    model, seen = shelf.model("gpt2"), []
    handle = model.hf.lm_head.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    try:
        run, _ = measured(model.anatomy, model.tokens(shelf.ids((6, 6))), cb.logit_diff(3, 5))
    finally:
        handle.remove()
    assert seen == [(2, 0, model.d_vocab)]
    with pytest.raises(SiteAbsent, match="kept no logits"):
        run.logits  # noqa: B018
    assert model.run(shelf.ids((6,))).logits.shape == (1, 6, model.d_vocab)
