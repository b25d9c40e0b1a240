"""PRIMER 3.2.16: the softmax recomputed for queries and keys, and gradients that leave a layer out."""

import sys

import numpy as np
import pytest
import torch
import wired_by_hand

import caseback as cb
import shelf
from caseback.errors import CasebackError, TokensError
from caseback.jobs import budget
from caseback.localize.components.atp_star import atp_star
from caseback.localize.components.attribution_patching import attribution_patching
from exact import exact

METRIC = cb.logit_diff(3, 5)
PAIR = shelf.ids((6, 6)), shelf.ids((6, 6), seed=9)


def test_3_2_16_a_saturated_softmax_is_recomputed():
    """True effect -0.999, to first order -0.008, recomputed -0.999."""
    model, pair = wired_by_hand.saturated(), ([[1, 2, 4]], [[1, 2, 5]])
    found = atp_star(model, *pair, cb.logit(3), sites="q", grad_drop=False)["q"]
    true = (found.corrupt - found.clean).item()
    assert round(true, 3) == -0.999 and abs(found.sel(layer=0, head=0, pos=2).item() - true) < 1e-12


def test_3_2_16_a_saturated_key_is_recomputed():
    """The key that has all the weight is taken away; nothing else of the token changes what the head writes."""
    model = wired_by_hand.saturated()
    pair = [[1, 2, 4]], [[6, 2, 4]]
    found = atp_star(model, *pair, cb.logit(3), sites="k", grad_drop=False)["k"]
    other = model.run(pair[1], read=["k"])
    metric, prompt = cb.logit(3), pair[0]
    true = metric(model.run(prompt, edits=cb.Resample("k", other, pos=0))) - metric(model.run(prompt))
    assert round(true.item(), 2) == -0.67 and abs(found.sel(layer=0, kv_head=0, pos=0).item() - true.item()) < 1e-12
    plain = attribution_patching(model, *pair, metric, sites="k")["k"]
    assert abs(plain.sel(pos=0).item()) < 0.01


@pytest.mark.parametrize("score", [40.0, 400.0])
def test_3_2_16_keys_stay_right_where_one_has_all_the_weight(score):
    """The others together have e^-400: patched as high as a half, the key still shares with them as it should."""
    model = wired_by_hand.saturated(score)
    hf = model.hf
    with torch.no_grad():
        hf.transformer.wte.weight[6, 1], hf.transformer.wte.weight[2, 2] = 0.0, 0.25
    pair = [[1, 2, 4]], [[6, 2, 4]]
    found = atp_star(model, *pair, cb.logit(3), sites="k", grad_drop=False)["k"]
    other, metric = model.run(pair[1], read=["k"]), cb.logit(3)
    true = metric(model.run(pair[0], edits=cb.Resample("k", other, pos=0))) - metric(model.run(pair[0]))
    assert abs(found.sel(layer=0, kv_head=0, pos=0).item() - true.item()) < 1e-12 and true.item() < -0.5


def test_3_2_16_cancellation_is_undone():
    """Direct +1, indirect -1: to first order 0, over the three layers left out 0, 1 and 0, by L - 1."""
    model, pair = wired_by_hand.cancelling(), ([[2]], [[1]])
    found = atp_star(model, *pair, cb.logit(3), sites=["mlp_out", "embed"])
    assert np.allclose(found["mlp_out"].values.ravel(), [0.5, 1.0, 0.0])
    plain = attribution_patching(model, *pair, cb.logit(3), sites="mlp_out")["mlp_out"]
    assert np.allclose(plain.values.ravel(), [0.0, -1.0, 0.0])


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_2_16_the_fix_is_the_patched_pattern_times_the_gradient_at_the_pattern(name):
    """Written out: the pattern of a run whose query or key is patched, less the clean one; caps, windows, sinks, GQA."""
    model, layer = shelf.model(name), 1
    with exact():
        found = atp_star(model, *PAIR, METRIC, sites=["q", "k"], grad_drop=False)
        other = model.run(PAIR[1], read=["q", "k"])
        run = model.run(PAIR[0], read=["pattern"], grad=True)
        slope, pattern = run.grad(METRIC, ["pattern"])["pattern", layer], run["pattern", layer].detach()
        for site, dim, heads in (("q", "head", model.n_heads), ("k", "kv_head", model.n_kv_heads)):
            for pos in (0, 2, 5):
                head = pos % heads
                edit = cb.Resample(site, other, layer=layer, head=head, pos=pos)
                moved = model.run(PAIR[0], edits=edit, read=[("pattern", layer)])["pattern", layer] - pattern
                told = (moved * slope).sum((1, 2, 3))
                mine = found[site].sel({"layer": layer, dim: head, "pos": pos})
                assert np.allclose(mine, told, atol=1e-10), (site, pos)
    assert np.abs(found["q"]).max() > 1e-3 and np.abs(found["k"]).max() > 1e-3


@pytest.mark.parametrize("name", [*shelf.FEW, "olmo2", "granite"])
def test_3_2_16_gradients_that_leave_a_layer_out_are_those_of_a_run_with_its_writes_held(name):
    model, sites = shelf.model(name), ["embed", "q", "z", "mlp_out", "resid_pre", "resid_post", "head_out"]
    sites += ["resid_mid"] if "resid_mid" not in model.anatomy.lacks else []
    with exact():
        found = atp_star(model, *PAIR, METRIC, sites=sites, qk_fix=False)
        a, b = (model.run(prompts, read=sites) for prompts in PAIR)
        total = {site: 0.0 for site in sites}
        for layer in range(model.n_layers):
            held = [cb.Freeze("attn_out", layer=layer), cb.Freeze("mlp_out", layer=layer)]
            run = model.run(PAIR[0], read=sites, edits=held, grad=True)
            slopes = run.grad(METRIC, sites)
            for site in sites:
                size = ((b[site] - a[site]) * slopes[site]).sum(-1).abs()
                if site in ("mlp_out", "head_out"):
                    # held at its value a write still has a gradient behind it; left out it has none
                    size[layer] = 0
                total[site] = total[site] + size / (model.n_layers - 1)
        for site in sites:
            order = [d for d in ("layer", "batch", "pos", "head") if d in found[site].dims]
            assert np.allclose(found[site].transpose(*order), total[site], atol=1e-10), site


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mpt", "gpt_oss"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_nothing(name, side):
    model, sites = shelf.model(name), ["q", "k", "z"]
    clean, corrupt = shelf.ids((7, 4)), shelf.ids((7, 4), seed=9)
    with exact():
        together = atp_star(model, model.tokens(clean, padding=side), corrupt, METRIC, sites=sites)
        for b, length in enumerate((7, 4)):
            alone = atp_star(model, [clean[b]], [corrupt[b]], METRIC, sites=sites)
            for site in sites:
                mine = together[site].isel(batch=b)
                assert np.allclose(mine.isel(pos=slice(0, length)), alone[site].isel(batch=0), atol=1e-10)
                assert bool(mine.isel(pos=slice(length, None)).isnull().all())


def test_maps_are_made_a_few_prompts_at_a_time():
    model = shelf.model("llama")
    with exact():
        whole = atp_star(model, *PAIR, METRIC, sites=["q", "k"])
        with budget.override(qk_map_entries=1):
            parts = atp_star(model, *PAIR, METRIC, sites=["q", "k"])
    assert all(np.allclose(whole[s], parts[s], atol=1e-13) for s in "qk")


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_go_a_few_at_a_time(side, monkeypatch):
    model, sites = shelf.model("llama"), ["q", "k", "z", "mlp_out"]
    clean, corrupt = (shelf.ids((7, 4, 5), seed=seed) for seed in (0, 9))
    module = sys.modules[atp_star.__module__]
    passes, run_rows = [], module.run_rows
    monkeypatch.setattr(module, "run_rows", lambda *args, **more: passes.append(args[4]) or run_rows(*args, **more))
    with exact():
        whole = atp_star(model, model.tokens(clean, padding=side), corrupt, METRIC, sites=sites)
        assert len(passes) == 1
        with budget.override(gradient_tokens=1):
            parts = atp_star(model, model.tokens(clean, padding=side), corrupt, METRIC, sites=sites)
    assert len(passes) == 1 + 3
    assert all(np.allclose(whole[site], parts[site], atol=1e-12, equal_nan=True) for site in sites)
    assert np.allclose(whole.clean, parts.clean)


def test_without_either_it_is_attribution_patching():
    model = shelf.model("gpt2")
    with exact():
        found = atp_star(model, *PAIR, METRIC, sites=["q", "mlp_out"], qk_fix=False, grad_drop=False)
        plain = attribution_patching(model, *PAIR, METRIC, sites=["q", "mlp_out"])
    assert np.allclose(found["q"], plain["q"]) and np.allclose(found["mlp_out"], plain["mlp_out"])
    assert found.attrs["signed"] == 1 and atp_star(model, *PAIR, METRIC).attrs["signed"] == 0


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="needs corrupt="):
        atp_star(model, PAIR[0], None, METRIC)
    with pytest.raises(CasebackError, match="at least two"):
        atp_star(wired_by_hand.saturated(), [[1, 2, 4]], [[1, 2, 5]], cb.logit(3))
    with pytest.raises(TokensError, match="not token-aligned"):
        atp_star(model, PAIR[0], shelf.ids((6, 5)), METRIC)
    with pytest.raises(CasebackError, match="minimum on its own reference"):
        atp_star(model, *PAIR, cb.kl(model.run(PAIR[0])))
