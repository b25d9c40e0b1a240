"""A site parses from, and prints as, its own name, TransformerLens's hook name and the Hugging Face module path."""

import pytest

import caseback as cb
import shelf
from caseback.errors import SiteAbsent, UnknownSite
from caseback.model.anatomy.sites import SITES, Site, parse


@pytest.mark.parametrize("name", SITES)
def test_names_and_hook_names_go_round(name):
    site = Site(name, 5 if SITES[name].layered else None)
    assert parse(str(site)) == tuple(site)
    assert parse(site.hook_name) == tuple(site)
    assert parse(name) == (name, None)


# As TransformerLens spells them, where it has the site.
LENS = {
    "hook_embed": ("embed", None),
    "hook_pos_embed": ("pos_embed", None),
    "blocks.5.hook_resid_pre": ("resid_pre", 5),
    "blocks.5.hook_resid_mid": ("resid_mid", 5),
    "blocks.5.hook_resid_post": ("resid_post", 5),
    "blocks.5.hook_attn_in": ("attn_in", 5),
    "blocks.5.hook_q_input": ("q_in", 5),
    "blocks.5.hook_k_input": ("k_in", 5),
    "blocks.5.hook_v_input": ("v_in", 5),
    "blocks.5.ln1.hook_scale": ("attn_norm.scale", 5),
    "blocks.5.ln1.hook_normalized": ("attn_norm", 5),
    "blocks.5.attn.hook_q": ("q", 5),
    "blocks.5.attn.hook_k": ("k", 5),
    "blocks.5.attn.hook_v": ("v", 5),
    "blocks.5.attn.hook_attn_scores": ("scores", 5),
    "blocks.5.attn.hook_pattern": ("pattern", 5),
    "blocks.5.attn.hook_z": ("z", 5),
    "blocks.5.attn.hook_result": ("head_out", 5),
    "blocks.5.hook_attn_out": ("attn_out", 5),
    "blocks.5.hook_mlp_in": ("mlp_in", 5),
    "blocks.5.ln2.hook_normalized": ("mlp_norm", 5),
    "blocks.5.ln2.hook_scale": ("mlp_norm.scale", 5),
    "blocks.5.mlp.hook_pre": ("mlp_pre", 5),
    "blocks.5.mlp.hook_post": ("mlp_post", 5),
    "blocks.5.hook_mlp_out": ("mlp_out", 5),
    "ln_final.hook_scale": ("final_norm.scale", None),
    "ln_final.hook_normalized": ("final_norm", None),
}


@pytest.mark.parametrize("hook", LENS)
def test_transformer_lens_names_are_understood(hook):
    assert parse(hook) == LENS[hook]


def test_reading_by_any_spelling_reads_the_same():
    model = shelf.model("llama")
    run = model.run(
        shelf.ids(), read=["blocks.1.attn.hook_z", ("resid_post", -1), "mlp_out.0", Site("q", 2), "model.layers.0"]
    )
    assert run.sites == [
        Site("z", 1),
        Site("resid_post", 2),
        Site("mlp_out", 0),
        Site("q", 2),
        Site("resid_post", 0),
    ] or set(run.sites) == {
        Site("z", 1),
        Site("resid_post", 2),
        Site("mlp_out", 0),
        Site("q", 2),
        Site("resid_post", 0),
    }
    assert run["z", 1] is run["blocks.1.attn.hook_z"] is run["z.1"] is run[Site("z", 1)]
    assert run["resid_post", 0] is run["model.layers.0"]
    assert ("z", 1) in run and "model.layers.0" in run and ("z", 0) not in run


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "llama", "gemma2", "opt_projected", "bloom", "falcon", "mpt", "glm4", "olmo2"]
)
def test_module_paths_go_round_and_hold_the_modules_output(name):
    """What the path's module returns is the site, wherever the module returns what it writes."""
    model = shelf.model(name)
    anatomy, seen, hooks = model.anatomy, {}, []
    modules = dict(model.hf.named_modules())
    paths = {}
    for site_name in ("embed", "attn_out", "mlp_out", "resid_post", "final_norm", "logits"):
        site = Site(site_name, 1 if SITES[site_name].layered else None)
        path = anatomy.module_path(site)
        if path is not None:
            paths[path] = site
            assert list(anatomy.sites(path)) == [site]
    capped = anatomy.logit_softcap is not None or anatomy.logit_scale != 1.0
    assert Site("resid_post", 1) in paths.values() and (Site("logits") in paths.values()) != capped

    def keep(path):
        return lambda module, args, output: seen.update({path: output[0] if isinstance(output, tuple) else output})

    try:
        hooks = [modules[path].register_forward_hook(keep(path)) for path in paths]
        run = model.run(shelf.ids(), read=list(paths.values()))
    finally:
        for hook in hooks:
            hook.remove()
    for path, site in paths.items():
        assert (run[site] == seen[path].view_as(run[site])).all(), (path, site)


def test_the_hook_before_the_activation_is_the_gate_where_there_is_one():
    """TransformerLens's mlp.hook_pre is what the activation is applied to: in a gated MLP that is the gate."""
    gated, plain = shelf.model("llama"), shelf.model("gpt2")
    assert list(gated.anatomy.sites("blocks.1.mlp.hook_pre")) == [Site("mlp_gate", 1)]
    assert list(plain.anatomy.sites("blocks.1.mlp.hook_pre")) == [Site("mlp_pre", 1)]
    assert list(gated.anatomy.sites("mlp_pre.1")) == [Site("mlp_pre", 1)]
    run = gated.run(shelf.ids(), read=["mlp_gate", "mlp_pre", "mlp_post"])
    act = gated.anatomy.layers[1].act
    assert (act(run["mlp_gate", 1]) * run["mlp_pre", 1] - run["mlp_post", 1]).abs().max() < 1e-6


def test_the_hook_before_the_activation_in_a_fused_gate():
    model = shelf.model("phi3")
    assert list(model.anatomy.sites("blocks.1.mlp.hook_pre")) == [Site("mlp_gate", 1)]
    run = model.run(shelf.ids(), read=["mlp_gate", "mlp_pre", "mlp_post"])
    act = model.anatomy.layers[1].act
    assert (act(run["mlp_gate", 1]) * run["mlp_pre", 1] - run["mlp_post", 1]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("resid_pots", "no site is called 'resid_pots'. Did you mean resid_post"),
        ("blocks.0.hook_resid_pots", "Did you mean blocks.0.hook_resid_post"),
        ("patern", "Did you mean pattern"),
        ("banana", "The sites are embed, pos_embed, resid_pre"),
        ("hook_resid_post", "no site is called 'hook_resid_post'"),
        ("z.one", "no site is called 'z.one'"),
        ("embed.1", "no site is called 'embed.1'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_near_ones(given, says):
    with pytest.raises(UnknownSite) as caught:
        parse(given)
    assert says in str(caught.value)


def test_what_a_model_lacks_is_refused_with_the_reason():
    def message(name, site):
        with pytest.raises(UnknownSite) as caught:
            shelf.model(name).run(shelf.ids(), read=site)
        return str(caught.value)

    assert (
        message("llama", "pos_embed")
        == "this model (llama) has no site 'pos_embed': positions are not embedded (rotary, ALiBi or none)"
    )
    assert (
        message("gptj", "resid_mid") == "this model (gptj) has no site 'resid_mid': attention and MLP run in parallel"
    )
    assert message("deepseek_v3", "q_in").endswith(
        "come from a shared latent (MLA), so no head has projections of its own"
    )
    assert message("gpt2", "mlp_gate") == "this model (gpt2) has no site 'mlp_gate': the MLP has no gate"
    assert message("gpt2", "router") == "this model (gpt2) has no site 'router': no mixture of experts"
    assert message("mixtral", "mlp_pre").endswith("no dense MLP: each expert has its own neurons")
    assert message("olmo2", "attn_norm").endswith("attention reads the stream without a norm")
    assert message("qwen2_moe", ("expert", 1)) == "layer 1 of this model (qwen2_moe) has no site 'expert'"
    assert message("llama", ("z", 3)) == "layer 3 is out of range: this model has layers 0 to 2"
    assert message("llama", "blocks.7.attn.hook_z") == "layer 7 is out of range: this model has layers 0 to 2"
    assert "3.5 is no site: give a name" in message("llama", [3.5])


def test_what_a_run_did_not_read_is_refused_with_what_it_holds():
    run = shelf.model("llama").run(shelf.ids(), read=["z", ("mlp_out", 1)])
    with pytest.raises(SiteAbsent) as caught:
        run["pattern"]
    assert str(caught.value) == "this run did not read pattern.0: pass read=['pattern'] (it holds: mlp_out, z)"
    with pytest.raises(SiteAbsent, match=r"did not read mlp_out.0"):
        run["mlp_out"]
    with pytest.raises(SiteAbsent, match="it holds: none"):
        shelf.model("llama").run(shelf.ids())["z"]


def test_layers_are_stacked_when_no_layer_is_given():
    run = shelf.model("llama").run(shelf.ids(), read=["z", "embed"])
    assert run["z"].shape[:3] == (3, 2, 9) and run["z", 0].shape[:2] == (2, 9) and run["embed"].shape == (2, 9, 32)
    assert (run["z"][-1] == run["z", -1]).all()
    assert cb.Site("z", 0) in run.sites
