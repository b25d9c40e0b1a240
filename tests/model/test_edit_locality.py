"""An edit touches what it addresses and what depends on it, nothing else; with its own value it changes nothing."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.model.anatomy.sites import SITES, Site
from exact import exact

AT = 4  # the position edited


def heads_of(anatomy, site):
    dims = anatomy.layers[site.layer].dims
    return dims.n_kv_heads if "kv_head" in SITES[site.name].dims else dims.n_heads


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_replacing_a_site_by_itself_is_a_no_op(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    sites = [shelf.middle(model.anatomy, n) for n in shelf.editable(model.anatomy)]
    with exact():
        clean = model.run(tokens, read=sites)
        for site in sites:
            edited = model.run(tokens, edits=cb.Resample(site.name, clean, layer=site.layer))
            torch.testing.assert_close(edited.logits, clean.logits, rtol=1e-12, atol=1e-12, msg=str(site))


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_an_edit_of_a_position_changes_that_position_on_and_that_layer_on(name):
    """Nothing at earlier positions and layers, to the bit; something from there on.

    An expert's rows are one matrix product, whose rounding depends on how many tokens chose it: there, to rounding.
    """
    model = shelf.model(name)
    small = 1e-5 if "expert" not in model.anatomy.lacks else 0.0
    same = lambda a, b: bool(((a - b).abs() <= small * (1 + b.abs())).all())  # noqa: E731
    tokens = model.tokens(shelf.ids())
    n = model.n_layers
    for site in (shelf.middle(model.anatomy, s) for s in shelf.editable(model.anatomy)):
        layer = {"final_norm": n, "logits": n}.get(site.name, site.layer or 0)
        # A Scale by one takes the same route through attention, so that equal can mean equal to the bit.
        clean = model.run(tokens, read=["resid_post", site], edits=cb.Scale(site.name, 1.0, layer=site.layer, pos=AT))
        push = torch.linspace(-1, 1, clean[site].shape[-1])
        edited = model.run(tokens, read="resid_post", edits=cb.Add(site.name, push, layer=site.layer, pos=AT))
        assert same(edited["resid_post"][:layer], clean["resid_post"][:layer]), site
        assert same(edited["resid_post"][..., :AT, :], clean["resid_post"][..., :AT, :]), site
        assert same(edited.logits[:, :AT], clean.logits[:, :AT]), site
        moved = (edited.logits - clean.logits).abs().amax((0, 2)) > 1e-4
        assert bool(moved[AT]), site
        assert bool(moved[AT + 1]) or layer >= n - 1, site


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_an_edited_site_reads_as_edited_and_its_neighbours_as_they_were(name):
    """Of the site's own block only the addressed position, head and unit differ."""
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    sites = [shelf.middle(model.anatomy, s) for s in shelf.editable(model.anatomy)]
    with exact():
        clean = model.run(tokens, read=sites)
        for site in sites:
            dims = SITES[site.name].dims
            head = 1 % heads_of(model.anatomy, site) if "head" in dims or "kv_head" in dims else None
            unit = 1
            edit = cb.Replace(site.name, 0.625, layer=site.layer, head=head, pos=AT, unit=unit)
            edited = model.run(tokens, edits=edit, read=[site])
            was, now = clean[site], edited[site]
            addressed = torch.zeros_like(was, dtype=torch.bool)
            if site.name in ("scores", "pattern"):
                addressed[:, head, AT, unit] = True
            elif head is not None:
                addressed[:, AT, head, unit] = True
            else:
                addressed[:, AT, unit] = True
            assert bool((now[addressed] == 0.625).all()), site
            torch.testing.assert_close(now[~addressed], was[~addressed], rtol=1e-12, atol=1e-12, msg=str(site))


@pytest.mark.parametrize("name", shelf.DISTINCT)
@pytest.mark.parametrize("site", ["q_in", "q", "z", "k_in", "v_in", "k", "v"])
def test_an_edit_of_one_head_reaches_the_heads_that_it_serves_alone(name, site):
    """A query head is alone; a key/value head serves its group of neighbours."""
    model = shelf.model(name)
    if site in model.anatomy.lacks:
        pytest.skip(f"{name} has no {site}: {model.anatomy.lacks[site]}")
    dims = model.anatomy.layers[1].dims
    grouped = "kv_head" in SITES[site].dims
    head = (dims.n_kv_heads if grouped else dims.n_heads) - 1
    per = dims.n_heads // dims.n_kv_heads
    served = set(range(head * per, head * per + per)) if grouped else {head}
    seen = "head_out" if model.anatomy.layers[1].attn_post_norm is None else "z"
    clean = model.run(shelf.ids(), read=[(seen, 1), (site, 1)], edits=cb.Scale(site, 1.0, layer=1, head=head))
    push = torch.linspace(-1, 1, clean[site, 1].shape[-1])
    edited = model.run(shelf.ids(), read=[(seen, 1)], edits=cb.Add(site, push, layer=1, head=head))
    differ = (edited[seen, 1] - clean[seen, 1]).abs().amax((0, 1, 3)) > 0
    if model.anatomy.model_type in ("olmo2", "olmo3", "olmoe") and site in ("q_in", "k_in"):
        # One norm spans all heads' queries, so one head's input moves the scale of all.
        assert bool(differ[list(served)].all())
    else:
        assert set(differ.nonzero().flatten().tolist()) == served


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "gpt_bigcode_multi_head", "bloom", "falcon_grouped", "codegen", "phi3", "mpt"]
)
def test_in_a_fused_projection_each_head_has_its_own_rows(name):
    """Another input for one head's query moves that query alone, and so for keys and values."""
    model = shelf.model(name)
    p = model.anatomy.layers[1]
    for site, part, n in (
        ("q_in", "q", p.dims.n_heads),
        ("k_in", "k", p.dims.n_kv_heads),
        ("v_in", "v", p.dims.n_kv_heads),
    ):
        with exact():
            clean = model.run(shelf.ids(), read=[("q", 1), ("k", 1), ("v", 1)], edits=cb.Scale(site, 1.0, layer=1))
            for head in range(n):
                edited = model.run(
                    shelf.ids(), read=[("q", 1), ("k", 1), ("v", 1)], edits=cb.Scale(site, 0.5, layer=1, head=head)
                )
                for other in ("q", "k", "v"):
                    moved = (edited[other, 1] - clean[other, 1]).abs().amax((0, 1, 3)) > 1e-12
                    assert moved.nonzero().flatten().tolist() == ([head] if other == part else []), (site, head, other)


def test_a_prompt_edited_alone_leaves_the_other_as_it_was():
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids())
    clean = model.run(tokens)
    edited = model.run(tokens, edits=cb.Add("resid_post", torch.tensor([0.0, 1.0])[:, None, None], layer=0))
    assert torch.equal(edited.logits[0], clean.logits[0])
    assert not torch.equal(edited.logits[1], clean.logits[1])


def test_edits_of_one_site_apply_in_the_order_given():
    model = shelf.model("llama")
    add, double = cb.Add("mlp_out", 1.0, layer=1), cb.Scale("mlp_out", 2.0, layer=1)
    clean, first, second = (
        model.run(shelf.ids(), edits=edits, read=[("mlp_out", 1)])["mlp_out", 1]
        for edits in ([], [add, double], [double, add])
    )
    torch.testing.assert_close(first, (clean + 1) * 2)
    torch.testing.assert_close(second, clean * 2 + 1)


def test_an_edit_without_a_layer_acts_in_all():
    model = shelf.model("qwen2_moe")
    run = model.run(shelf.ids(), edits=cb.Zero("mlp_post"), read=["mlp_post"])
    assert run.sites == [Site("mlp_post", 1)] and not run["mlp_post"].any()
    run = model.run(shelf.ids(), edits=cb.Zero("mlp_out"), read=["mlp_out"])
    assert run["mlp_out"].shape[0] == 3 and not run["mlp_out"].any()
