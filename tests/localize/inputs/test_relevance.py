"""PRIMER 3.1.5 and 3.1.6: what is conserved, where; the published rules written out; relevance at any site."""

import by_hand
import numpy as np
import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TargetError, UnknownSite
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.gradients.relevance import PRESETS, attn_lrp, conservative_propagation, lrp_epsilon
from caseback.localize.inputs.gradients.site_relevance import site_relevance
from caseback.model.backward.rules import Rules
from exact import exact

METRIC = cb.logit_diff(3, 5)
TECHNIQUES = [lrp_epsilon, conservative_propagation, attn_lrp]
# gpt-oss multiplies by 1 more than its neuron: a bias that no parameter holds
CONSERVING = tuple(name for name in shelf.DISTINCT if name != "gpt_oss")


def difference(logits):
    return (logits[:, -1, 3] - logits[:, -1, 5]).sum()


def without_biases(name):
    hf = zoo.tiny(name)
    for parameter, value in hf.named_parameters():
        if parameter.endswith("bias"):
            nn.init.zeros_(value)
    return cb.load(hf)


@pytest.mark.parametrize("name", CONSERVING)
def test_3_1_5_conservation_without_biases(name):
    """With patterns, gates and denominators held, tokens and positions together have the metric."""
    with exact():
        model = without_biases(name)
        scores = conservative_propagation(model, shelf.ids((6,)), METRIC)
        value = float(METRIC(model.run(shelf.ids((6,))))[0])
        through = attn_lrp(model, shelf.ids((6,)), METRIC).attrs["conservation_gap"][0]
    told = scores.attrs
    total = scores.values.sum() + sum(told.get("position_relevance", [0.0]))
    assert abs(total - value) < 1e-12 * max(1, abs(value)) and abs(told["conservation_gap"][0]) < 1e-12
    # The softmax rule is what does not conserve: with it AttnLRP misses.
    assert abs(through) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen2_moe", "bloom"])
def test_3_1_6_conserves_once_the_softmax_rule_is_a_detach(name):
    with exact():
        model = without_biases(name)
        sites = ["embed", *(["pos_embed"] if name == "gpt2" else [])]
        found = site_relevance(model, shelf.ids((6,)), METRIC, sites, rules=Rules(softmax="held"))
    total = sum(float(found[s].sum()) for s in sites)
    assert abs(total - found["embed"].attrs["metric_value"][0]) < 1e-12


@pytest.mark.parametrize("name", ["llama_biased", "gpt2", "opt_projected"])
def test_3_1_5_biases_take_the_gap(name):
    with exact():
        scores = conservative_propagation(shelf.model(name), shelf.ids((6,)), METRIC)
    told = scores.attrs
    total = scores.values.sum() + sum(told.get("position_relevance", [0.0]))
    assert abs(total - told["metric_value"][0] - told["conservation_gap"][0]) < 1e-10
    assert abs(told["conservation_gap"][0]) > 1e-3


@pytest.mark.parametrize("name", ["llama", "llama_multi_query", "mistral", "smollm3"])
@pytest.mark.parametrize("technique", [attn_lrp, conservative_propagation])
def test_the_rules_as_published_say_the_same(name, technique):
    model, prompt = shelf.model(name), shelf.ids((7,))
    with exact():
        logits, by_rules = by_hand.published_rules(
            model.hf, prompt, difference, through_attention=technique is attn_lrp
        )
        ours = technique(model, prompt, METRIC, by_dimension=True)
        plain = model.run(prompt).logits
    if name == "llama":  # the others have windows or layers without rotation, which the writing out has not
        assert torch.allclose(logits, plain, atol=1e-10)
    if torch.allclose(logits, plain, atol=1e-10):
        assert np.allclose(ours.values, by_rules.numpy(), atol=1e-10) and np.abs(ours.values).max() > 1e-3


def test_3_1_5_the_papers_letter_keeps_the_activations_gradient():
    """Ali et al. hold patterns and denominators and leave the rest; for ReLU that is the identity rule."""
    model, prompt = by_hand.rectified(), [4, 8, 15]
    each = [conservative_propagation(model, prompt, METRIC, activation=a).values for a in ("identity", "gradient")]
    assert np.allclose(*each, atol=1e-12)
    assert np.allclose(each[0], gradient_x_input(model, prompt, METRIC).values, atol=1e-12)
    smooth = shelf.model("gpt2")
    one, two = (conservative_propagation(smooth, prompt, METRIC, activation=a).values for a in ("identity", "gradient"))
    assert np.abs(one - two).max() > 1e-3


def test_3_1_5_epsilon_goes_to_the_conservative_rules_as_it_vanishes():
    model, prompt = shelf.model("llama"), shelf.ids((6,))
    with exact():
        limit = conservative_propagation(model, prompt, METRIC).values
        far, near, none = (
            np.abs(lrp_epsilon(model, prompt, METRIC, epsilon=e).values - limit).max() for e in (1e-2, 1e-6, 0.0)
        )
    assert far > 1e-3 > near > none == 0


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_3_1_22_a_contrast_is_the_difference_of_two_attributions(technique):
    model, prompts = shelf.model("gemma2"), shelf.ids((5, 5))
    with exact():
        both, back = (technique(model, prompts, m).values for m in (cb.logit_diff(3, 5), cb.logit_diff(5, 3)))
        each = [technique(model, prompts, cb.logit(t)).values for t in (3, 5)]
    assert np.allclose(both, -back, atol=1e-10)
    # a soft-cap's identity rule and the rest are linear in what is handed back; only epsilon at logits is not
    assert np.allclose(both, each[0] - each[1], atol=1e-4 if technique is lrp_epsilon else 1e-10)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon_alibi"])
def test_padding_and_batches_change_nothing(name, technique, side):
    model, prompts = shelf.model(name), shelf.ids((7, 3), seed=2)
    with exact():
        both = technique(model, model.tokens(prompts, padding=side), cb.logit_diff([3, 9], 5))
        for row, prompt in enumerate(prompts):
            alone = technique(model, [prompt], cb.logit_diff([3, 9][row], 5))
            assert np.allclose(both.values[row, : len(prompt)], alone.values[0], atol=1e-10)
            gap = both.attrs["conservation_gap"][row]
            assert abs(gap - alone.attrs["conservation_gap"][0]) < 1e-10
    assert np.isnan(both.values[1, 3:]).all()


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma2", "deepseek_v3", "mpt"])
def test_any_cut_through_the_stream_has_the_metric(name):
    with exact():
        model = without_biases(name)
        found = site_relevance(model, shelf.ids((6, 4)), METRIC, ["resid_pre", "resid_post"], rules="conservative")
    for site in ("resid_pre", "resid_post"):
        assert np.allclose(found[site].sum("pos"), found[site].attrs["metric_value"], atol=1e-11)
    assert found["resid_pre"].dims == ("layer", "batch", "pos")


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom"])
def test_3_1_6_products_halve_relevance_inside_attention_and_mlps(name):
    gated = name in ("llama", "gemma2")
    sites = ["z", "pattern", "v", "scores", "q", "k", "mlp_post", "mlp_pre", *(["mlp_gate"] if gated else [])]
    model = shelf.model(name)
    with exact():
        found = site_relevance(model, shelf.ids((6,)), METRIC, sites)
    total = {s: found[s].sum([d for d in found[s].dims if d not in ("layer", "batch")]).values for s in sites}
    assert np.allclose(total["pattern"], total["z"] / 2) and np.allclose(total["v"], total["z"] / 2)
    assert np.allclose(total["q"], total["k"])
    if name == "llama":  # with ALiBi or a soft-cap the products are not all of the scores
        assert np.allclose(total["q"], total["scores"] / 2)
    if gated:
        assert np.allclose(found["mlp_gate"], found["mlp_post"] / 2, atol=1e-12)
        assert np.allclose(found["mlp_pre"], found["mlp_post"] / 2, atol=1e-12)
    elif name == "gpt2":
        assert np.allclose(found["mlp_pre"], found["mlp_post"], atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma2"])
def test_heads_writes_and_reads_have_what_their_sums_have(name):
    """Writes make up the branch, what queries, keys and values read makes up its input."""
    with exact():
        model = without_biases(name)
        sites = ["head_out", "attn_out", "q_in", "k_in", "v_in", "attn_in"]
        found = site_relevance(model, shelf.ids((6, 4)), METRIC, sites)
    inside = ~np.isnan(found["attn_in"].values)
    assert np.allclose(found["head_out"].sum("head").values[inside], found["attn_out"].values[inside], atol=1e-11)
    read = found["q_in"].sum("head") + found["k_in"].sum("kv_head") + found["v_in"].sum("kv_head")
    assert np.allclose(read.values[inside], found["attn_in"].values[inside], atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_every_site_with_a_gradient_has_relevance(name):
    model = shelf.model(name)
    sites = [s for s in shelf.readable(model.anatomy) if not s.endswith(".scale")]
    with exact():
        for rules in PRESETS:
            found = site_relevance(model, shelf.ids((5, 3)), METRIC, sites, rules=rules)
            assert set(found.data_vars) == {"expert_weights" if s == "expert" else s for s in sites}
            for values in found.data_vars.values():
                # beside others' a site has rows for layers that lack it, such as a dense layer's router
                mine = values.isel(batch=0)
                mine = mine.dropna("layer", how="all") if "layer" in mine.dims else mine
                assert mine.size and bool(np.isfinite(mine).all())
            assert found["embed"].attrs["softmax_rule"] == PRESETS[rules].softmax
    assert found["resid_post"].attrs["entry"] == "3.1.5, 3.1.6"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_what_sites_have(side):
    model, prompts, sites = shelf.model("llama"), shelf.ids((6, 3)), ["pattern", "z", "mlp_post", "resid_mid"]
    with exact():
        both = site_relevance(model, model.tokens(prompts, padding=side), METRIC, sites)
        alone = site_relevance(model, [prompts[1]], METRIC, sites)
    for site in sites:
        mine = both[site].isel(batch=1)
        part = mine.isel({d: slice(3) for d in ("pos", "query", "key") if d in mine.dims})
        assert np.allclose(part, alone[site].isel(batch=0), atol=1e-10)
        assert int(np.isfinite(mine).sum()) == part.size
    assert both.token.values[1].tolist()[3:] == ["", "", ""]


def test_what_the_rules_hold_has_no_relevance():
    found = site_relevance(
        shelf.model("mixtral"), shelf.ids((5,)), METRIC, ["pattern", "q", "v", "expert", "router"], rules="conservative"
    )
    assert all(not found[s].values.any() for s in ("pattern", "q", "expert_weights", "router"))
    assert found["v"].values.any()


def test_dimensions_stay_if_asked_for():
    model, prompt = shelf.model("gpt2"), shelf.ids((5,))
    wide = site_relevance(model, prompt, METRIC, [("resid_post", 1), ("z", 0)], by_dimension=True)
    assert wide["resid_post"].dims == ("layer", "batch", "pos", "d_model") and wide.sizes["layer"] == 2
    narrow = site_relevance(model, prompt, METRIC, ("resid_post", 1))
    assert np.allclose(wide["resid_post"].sum("d_model").sel(layer=1), narrow["resid_post"].sel(layer=1))
    by_token = attn_lrp(model, prompt, METRIC, by_dimension=True)
    assert np.allclose(by_token.sum("d_model"), attn_lrp(model, prompt, METRIC), atol=1e-12)


def test_results_can_be_written(tmp_path):
    found = site_relevance(shelf.model("gpt2"), [1, 2, 3], METRIC, ["z", "embed"])
    assert found.to_netcdf() is not None and attn_lrp(shelf.model("gpt2"), [1, 2, 3], METRIC).to_netcdf() is not None


def test_what_makes_no_sense_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(TargetError, match="target and foil of prompt 1 are the same token, '5'"):
        attn_lrp(model, [[1, 2], [3, 4]], cb.logit_diff([3, 5], 5))
    with pytest.raises(OutOfRange, match="epsilon is -1"):
        lrp_epsilon(model, [1, 2], METRIC, epsilon=-1.0)
    with pytest.raises(CasebackError, match="activation='identify' is not a rule. Did you mean identity"):
        conservative_propagation(model, [1, 2], METRIC, activation="identify")
    with pytest.raises(CasebackError, match="Did you mean conservative"):
        site_relevance(model, [1, 2], METRIC, ["z"], rules="conservativ")
    with pytest.raises(CasebackError, match="no site given"):
        site_relevance(model, [1, 2], METRIC, [])
    with pytest.raises(UnknownSite):
        site_relevance(model, [1, 2], METRIC, ["zz"])
    with pytest.raises(SiteAbsent, match="only looked at"):
        site_relevance(model, [1, 2], METRIC, ["attn_norm.scale"])
    with pytest.raises(CasebackError, match="cb.function"):
        attn_lrp(model, [1, 2], difference)
