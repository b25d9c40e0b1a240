"""PRIMER 3.2.2, 3.2.5, 3.2.6: shares sum to the metric, and to a difference's; what they say of causes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, SiteAbsent
from caseback.localize.components.ablation import ablate
from caseback.localize.components.logit_attribution import logit_attribution
from exact import exact

METRIC = cb.logit_diff(3, 5)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_3_2_2_the_shares_sum_to_the_metric(name):
    model, prompts = shelf.model(name), shelf.ids((7, 7))
    metrics = cb.logit(3), cb.logit_diff([3, 8], [5, 1])
    with exact():
        logits = model.hf(torch.tensor(prompts)).logits[:, -1].detach()
        cap = model.anatomy.logit_softcap
        uncapped = logits if cap is None else cap * torch.atanh(logits / cap)
        for metric in metrics:
            shares = logit_attribution(model, prompts, metric)
            assert np.abs(shares.attrs["gap"]).max() < 1e-10
            told = uncapped[:, 3] if metric.name == "logit" else uncapped[[0, 1], [3, 8]] - uncapped[[0, 1], [5, 1]]
            assert np.allclose(shares.sum("component"), told, atol=1e-8)
            assert np.allclose(shares.attrs["metric_value"], told, atol=1e-8)
    assert shares.attrs.get("softcap") == cap


# one each of: plain, scaled logits, multipliers, post-norms, parallel, head bias, latent attention, experts
@pytest.mark.parametrize("name", "gpt2 cohere granite gemma2 glm4 olmo2 gpt_neox phi deepseek_v3 mixtral".split())
def test_3_2_2_a_share_is_the_write_through_the_frozen_norm_and_the_unembedding(name):
    """From what the run reads at ``head_out`` and ``mlp_out``, with the denominator computed here."""
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    anatomy = model.anatomy
    with exact():
        run = model.run(prompts, read=["embed", "head_out", "mlp_out", "resid_post"])
        shares = logit_attribution(model, prompts, METRIC)
        x = run["resid_post", -1][:, -1].detach()
        norm = anatomy.norms[anatomy.final_norm]
        centred = isinstance(anatomy.final_norm, nn.LayerNorm) or name == "cohere"
        square = (x - x.mean(-1, keepdim=True) if centred else x).pow(2).mean(-1, keepdim=True)
        size, gain = (square + norm.eps).sqrt(), norm.gamma.detach()
        columns = anatomy.unembed.weight.detach()[[3, 5]]

        def read(write):
            write = write - write.mean(-1, keepdim=True) if centred else write
            logits = (write / size * gain) @ columns.T * anatomy.logit_scale
            return (logits[:, 0] - logits[:, 1]).detach().numpy()

        for layer in range(model.n_layers):
            for head in range(anatomy.layers[layer].dims.n_heads):
                write = run["head_out", layer][:, -1, head]
                assert np.allclose(shares.sel(component=f"L{layer}H{head}"), read(write), atol=1e-10)
            assert np.allclose(shares.sel(component=f"MLP {layer}"), read(run["mlp_out", layer][:, -1]), atol=1e-10)
        assert np.allclose(shares.sel(component="embed"), read(run["embed"][:, -1]), atol=1e-10)


def test_3_2_5_a_difference_is_the_difference_of_two_attributions():
    model, prompts = shelf.model("gemma2"), shelf.ids((6, 6))
    with exact():
        w, o = (logit_attribution(model, prompts, cb.logit(t)) for t in (3, 5))
        assert np.allclose(logit_attribution(model, prompts, METRIC), w - o, atol=1e-10)


def test_3_2_5_is_blind_to_a_vector_added_to_every_column_of_the_unembedding():
    hf = zoo.tiny("llama")
    prompts = shelf.ids((6,))
    with exact():
        before = [logit_attribution(cb.load(hf), prompts, m) for m in (METRIC, cb.logit(3))]
        shifted = copy.deepcopy(hf)
        shifted.lm_head.weight.data += torch.randn(hf.config.hidden_size).double()
        after = [logit_attribution(cb.load(shifted), prompts, m) for m in (METRIC, cb.logit(3))]
    assert np.allclose(before[0], after[0], atol=1e-10)
    assert not np.allclose(before[1], after[1], atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "olmo2"])
def test_3_2_2_is_the_effect_of_the_last_writes_where_nothing_follows_them(name):
    """Without a final norm, zeroing what the last block wrote takes exactly its share away."""
    hf = zoo.tiny(name)
    parent, norm = {"gpt2": (hf.base_model, "ln_f"), "gpt_neox": (hf.base_model, "final_layer_norm")}.get(
        name, (hf.base_model, "norm")
    )
    setattr(parent, norm, nn.Identity())
    with exact():
        model = cb.load(hf)
        assert model.anatomy.final_norm is None
        last = model.n_layers - 1
        # heads of a sequential block are read by its MLP too
        names = [f"MLP {last}"] + [f"L{last}H{h}" for h in range(model.n_heads)] * (name == "gpt_neox")
        prompts = shelf.ids((6, 6))
        shares = logit_attribution(model, prompts, METRIC).sel(component=names)
        effects = ablate(model, prompts, METRIC, components=names, kind="zero")
    assert np.allclose(shares, effects, atol=1e-10) and np.abs(shares).max() > 1e-2


def test_3_2_6_an_erased_write_keeps_its_share_though_nothing_is_lost_without_it():
    """Head 0 writes v, the MLP after it takes away what it reads: the share is large, the effect of ablation none."""
    config = zoo.FAMILIES["gpt2"]()
    config.n_layer, config.activation_function, config.n_inner = 1, "linear", config.n_embd
    config.tie_word_embeddings = False
    hf = zoo.from_config(config, torch.float64)
    hf.transformer.ln_f, hf.transformer.h[0].ln_2 = nn.Identity(), nn.Identity()
    mlp, eye = hf.transformer.h[0].mlp, torch.eye(config.n_embd).double()
    v = torch.randn(config.n_embd, dtype=torch.float64)
    v /= v.norm()
    mlp.c_fc.weight.data, mlp.c_proj.weight.data = eye.clone(), -torch.outer(v, v)
    for bias in (mlp.c_fc.bias, mlp.c_proj.bias):
        nn.init.zeros_(bias)
    width = config.n_embd // config.n_head
    o = hf.transformer.h[0].attn.c_proj.weight
    o.data[:width] = 20 * torch.outer(o.data[:width, 0], v)
    model = cb.load(hf)
    prompts = shelf.ids((5,))
    share = float(logit_attribution(model, prompts, METRIC).sel(component="L0H0").item())
    effect = float(ablate(model, prompts, METRIC, components=["L0H0"], kind="zero").item())
    assert abs(share) > 0.05 and abs(effect) < 1e-12


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_2_2_branches_layers_and_heads_are_the_components_summed_up(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        shares, branches, layers, heads = (
            logit_attribution(model, prompts, METRIC, by=by) for by in ("component", "branch", "layer", "head")
        )
    for layer in range(model.n_layers):
        here = shares[shares["layer"] == layer]
        attention = here[here.kind != "mlp"].sum("component")
        assert np.allclose(branches.sel(component=f"attn {layer}"), attention, atol=1e-12)
        assert np.allclose(branches.sel(component=f"MLP {layer}"), here.sel(component=f"MLP {layer}"), atol=1e-12)
        assert np.allclose(layers.sel(component=f"layer {layer}"), here.sum("component"), atol=1e-12)
        for head in range(model.anatomy.layers[layer].dims.n_heads):
            assert np.allclose(heads.sel(layer=layer).isel(head=head), shares.sel(component=f"L{layer}H{head}"))
    for made in (branches, layers):
        assert np.allclose(made.sum("component"), shares.attrs["metric_value"], atol=1e-10)
        assert np.abs(made.attrs["gap"]).max() < 1e-10
        assert np.allclose(made.sel(component="bias"), shares.sel(component="bias"))
    assert heads.dims == ("layer", "head", "batch")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "cohere"])
def test_3_2_2_what_the_final_norm_accounts_for_is_told(name):
    model, prompts = shelf.model(name), shelf.ids((6, 6))
    with exact():
        shares = logit_attribution(model, prompts, METRIC)
        scale = model.run(prompts, read=["final_norm.scale"])["final_norm.scale"][:, -1].detach()
    weights = model.weights
    columns = weights.W_U[:, 3] - weights.W_U[:, 5]
    beta = weights.final_norm.beta
    by_norm = 0.0 if beta is None else float(beta @ columns) * model.anatomy.logit_scale
    by_unembedding = float(weights.b_U[3] - weights.b_U[5]) * model.anatomy.logit_scale
    assert np.allclose(shares.attrs["norm_scale"], scale.flatten(), atol=1e-10)
    assert np.allclose(shares.attrs["norm_bias"], by_norm) and np.allclose(shares.attrs["unembed_bias"], by_unembedding)
    assert np.allclose(shares.sel(component="bias"), by_norm + by_unembedding)


def test_3_2_2_heads_that_do_not_write_their_z_are_refused():
    with pytest.raises(SiteAbsent, match="a norm stands between"):
        logit_attribution(cb.load(zoo.tiny("bitnet")), shelf.ids((5,)), METRIC)


def test_what_to_split_by_is_checked():
    with pytest.raises(CasebackError, match="by='heads' is unknown.*head"):
        logit_attribution(shelf.model("gpt2"), shelf.ids((5,)), METRIC, by="heads")


def test_any_linear_function_of_the_logits_will_do():
    model, prompts = shelf.model("phi"), shelf.ids((6, 6))
    with exact():
        named = logit_attribution(model, prompts, METRIC)
        by_function = logit_attribution(model, prompts, cb.function(lambda x: x[:, 3] - x[:, 5]))
        assert np.allclose(named, by_function, atol=1e-10)
        centred = logit_attribution(model, prompts, cb.function(lambda x: x[:, 3] - x.mean(-1), name="centred"))
        logits = model.run(prompts).logits[:, -1]
    assert np.allclose(centred.sum("component"), logits[:, 3] - logits.mean(-1), atol=1e-10)
    assert centred.attrs["metric"] == "centred"


@pytest.mark.parametrize(
    "metric",
    [
        cb.prob(3),
        cb.log_prob(3),
        cb.loss(),
        cb.function(lambda x: x[:, 3] ** 2),
        cb.function(lambda x: x[:, 3] + 1),
        cb.function(lambda x: x[:, 3:6].max(-1).values),
        cb.function(lambda x: x[:, 3].relu()),
        cb.function(lambda x: x[:, -1, 3], pos=None),
        lambda logits: logits[:, -1, 3],
    ],
)
def test_what_is_no_sum_of_shares_is_refused(metric):
    with pytest.raises(CasebackError, match="logit_diff"):
        logit_attribution(shelf.model("gpt2"), shelf.ids((5,)), metric)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_and_any_position_may_be_asked(side):
    model, prompts = shelf.model("llama"), shelf.ids((8, 4), seed=2)
    with exact():
        for pos in (-1, 2):
            both = logit_attribution(model, model.tokens(prompts, padding=side), cb.logit_diff([3, 9], 5, pos=pos))
            for row, prompt in enumerate(prompts):
                alone = logit_attribution(model, [prompt], cb.logit_diff([3, 9][row], 5, pos=pos))
                assert np.allclose(both.values[:, row], alone.values[:, 0], atol=1e-10)
                assert abs(alone.attrs["gap"][0]) < 1e-10


def test_components_are_named_and_kept_apart():
    model = shelf.model("gpt2")
    shares = logit_attribution(model, [1, 2, 3], METRIC)
    kinds = shares.kind.values.tolist()
    assert kinds[:2] == ["embed", "pos_embed"] and kinds[-1] == "bias"
    assert kinds.count("head") == model.n_layers * model.n_heads and kinds.count("attn_bias") == model.n_layers
    last = shares.sel(component="L2H3")
    assert (last["layer"].item(), last["head"].item()) == (2, 3)
    assert shares.to_netcdf() is not None and shares.attrs["entry"] == "3.2.2, 3.2.5"


def test_on_real_models(assets):
    for folder, prompt, metric in (
        ("stories3M", "Tom and Lily went to the park. Lily gave the ball to", cb.logit_diff(" Tom", " Lily")),
        ("gpt-nano-sort", [[0, 2, 1, 0, 1, 2]], cb.logit_diff(0, 2)),
    ):
        model = cb.load(assets / "models" / folder)
        shares = logit_attribution(model, prompt, metric)
        assert abs(float(shares.sum()) - float(metric(model.run(prompt))[0])) < 1e-4
        assert abs(shares.attrs["gap"][0]) < 1e-4
