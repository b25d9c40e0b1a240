"""The decisive test: at every site, reading, editing and differentiating agree.

The gradient that a run gives at a site, along a random direction, is the central difference of the metric when that
direction is added at the site.
"""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import SiteAbsent, UnknownSite
from caseback.model.anatomy.sites import SITES, Site
from exact import exact

STEP = 1e-6  # small, since ReLUs and clipped projections have kinks


def weighted(model, seed=5):
    """A smooth metric that sees every position and every vocabulary entry."""
    weights = torch.randn(1, 9, model.d_vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return cb.function(lambda x: (torch.tanh(x / 4) * weights).sum((1, 2)), pos=None, name="weighted")


def on_edges(model, tokens, site, direction):
    """At the maps keys that come later, or before a window, have no edge: leave them out of the direction."""
    if site.name not in ("scores", "pattern"):
        return direction
    return direction * (model.run(tokens, read=[("pattern", site.layer)])["pattern", site.layer] > 0)


def check(model, tokens, metric, site, gradient, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
    direction = on_edges(model, tokens, site, drawn)

    def at(step):
        edit = cb.Add(site.name, step * direction, layer=site.layer)
        return metric(model.run(tokens, edits=edit)).sum()

    measured = (at(STEP) - at(-STEP)) / (2 * STEP)
    told = (gradient * direction).sum()
    size = (gradient * direction).abs().sum().clamp_min(1e-3)
    assert abs(measured - told) < 1e-6 * size, f"{site}: finite difference {measured:.10g}, gradient {told:.10g}"
    return float(told.abs())


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_the_gradient_at_every_site_is_the_finite_difference(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    metric = weighted(model)
    sites = [shelf.middle(model.anatomy, n) for n in shelf.editable(model.anatomy)]
    with exact():
        run = model.run(tokens, read=sites, grad=True)
        gradients = run.grad(metric, sites)
        for i, site in enumerate(sites):
            gradient = gradients[site] if site.layer is None else gradients[site.name, site.layer]
            assert gradient.shape == run[site].shape
            if site.name != "k_in":
                assert gradient.abs().max() > 0, f"{site}: a gradient of zeros"
            check(model, tokens, metric, site, gradient, seed=i)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon", "mixtral"])
def test_reading_one_site_gives_the_same_gradient_as_reading_all(name):
    model = shelf.model(name)
    metric = weighted(model)
    tokens = model.tokens(shelf.ids())
    sites = [shelf.middle(model.anatomy, n) for n in shelf.editable(model.anatomy)]
    with exact():
        together = model.run(tokens, read=sites, grad=True).grad(metric, sites)
        for site in sites:
            alone = model.run(tokens, read=[site], grad=True).grad(metric, [site])
            torch.testing.assert_close(alone[site], together[site], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo2", "gptj"])
def test_gradients_in_an_edited_run_are_those_of_the_edited_function(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    metric = weighted(model)
    edits = [
        cb.Zero("z", layer=0, head=1),
        cb.Scale("mlp_out", 0.5, layer=2),
        cb.Zero("pattern", layer=1, head=2, unit=0),
    ]
    site = Site("resid_post", 0)
    with exact():
        gradient = model.run(tokens, read=[site], edits=edits, grad=True).grad(metric, [site])[site]
        direction = torch.randn_like(gradient)

        def at(step):
            return metric(model.run(tokens, edits=[*edits, cb.Add("resid_post", step * direction, layer=0)])).sum()

        measured = (at(STEP) - at(-STEP)) / (2 * STEP)
    assert abs(measured - (gradient * direction).sum()) < 1e-6 * (gradient * direction).abs().sum()


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo2", "opt", "gptj", "olmo_clipped"])
@pytest.mark.parametrize(
    "site", ["q_in", "v_in", "resid_mid", "z", "head_out", "attn_in", "mlp_gate", "mlp_pre", "scores"]
)
def test_gradients_at_an_edited_site_are_those_after_the_edit(name, site):
    model = shelf.model(name)
    if site in model.anatomy.lacks:
        pytest.skip(f"{name} has no {site}: {model.anatomy.lacks[site]}")
    tokens, metric = model.tokens(shelf.ids()), weighted(model)
    edit = cb.Scale(site, 0.7, layer=1, pos=[2, 5])
    with exact():
        run = model.run(tokens, read=[(site, 1)], edits=edit, grad=True)
        gradient = run.grad(metric, [(site, 1)])[site, 1]
        direction = on_edges(model, tokens, Site(site, 1), torch.randn_like(gradient))

        def at(step):
            return metric(model.run(tokens, edits=[edit, cb.Add(site, step * direction, layer=1)])).sum()

        measured = (at(STEP) - at(-STEP)) / (2 * STEP)
    assert abs(measured - (gradient * direction).sum()) < 1e-6 * (gradient * direction).abs().sum()


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon_alibi", "deepseek_v2"])
def test_an_edited_site_passes_the_gradient_of_what_the_edit_keeps(name):
    """Zero cuts the path above it, Scale halves it."""
    model = shelf.model(name)
    tokens, metric, below, at = model.tokens(shelf.ids()), weighted(model), Site("resid_pre", 1), Site("resid_post", 1)
    with exact():
        cut = model.run(tokens, read=[below, at], edits=cb.Zero("resid_post", layer=1), grad=True)
        assert torch.equal(cut[at], torch.zeros_like(cut[at]))
        gradients = cut.grad(metric, [below, at])
        assert torch.equal(gradients[below], torch.zeros_like(gradients[below]))
        assert gradients[at].abs().max() > 0


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_parameters_get_no_gradient_and_keep_their_flags(name):
    model = shelf.model(name)
    some = next(p for p in model.hf.parameters() if p.requires_grad)
    some.requires_grad_(False)
    try:
        before = [p.requires_grad for p in model.hf.parameters()]
        run = model.run(shelf.ids(), read=["resid_post", "q"], grad=True)
        assert [p.requires_grad for p in model.hf.parameters()] == before and before.count(False) == 1
        run.grad(cb.logit_diff(3, 5), ["resid_post", "q"])
        assert all(p.grad is None for p in model.hf.parameters())
    finally:
        some.requires_grad_(True)


def test_a_metric_may_be_a_function_or_values_and_the_graph_serves_twice():
    model = shelf.model("llama")
    run = model.run(shelf.ids(), read=["resid_post"], grad=True)
    metric = cb.logit_diff(3, 5)
    by_metric = run.grad(metric, ["resid_post"])["resid_post"]
    by_function = run.grad(lambda x: x[:, -1, 3] - x[:, -1, 5], ["resid_post"])["resid_post"]
    by_value = run.grad(metric(run), ["resid_post"])["resid_post"]
    assert torch.equal(by_metric, by_value)
    torch.testing.assert_close(by_metric, by_function)
    assert by_metric.shape == run["resid_post"].shape


def test_prompts_do_not_mix():
    model = shelf.model("llama")
    rows = shelf.ids()
    metric = cb.logit_diff(3, 5)
    both = model.run(rows, read=["embed"], grad=True).grad(metric, ["embed"])["embed"]
    for i, row in enumerate(rows):
        alone = model.run([row], read=["embed"], grad=True).grad(metric, ["embed"])["embed"]
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-6, atol=1e-8)


def test_gradients_that_cannot_be_had_are_refused():
    model = shelf.model("gpt2")
    metric = cb.logit_diff(3, 5)
    with pytest.raises(SiteAbsent, match="run with grad=True"):
        model.run(shelf.ids(), read=["z"]).grad(metric, ["z"])
    with pytest.raises(SiteAbsent, match=r"did not read resid_post.0 with grad=True"):
        model.run(shelf.ids(), read=["z"], grad=True).grad(metric, ["resid_post"])
    with pytest.raises(UnknownSite, match="no site is called 'zed'"):
        model.run(shelf.ids(), read=["z"], grad=True).grad(metric, ["zed"])


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_denominator_that_is_only_looked_at_has_no_gradient_to_give(name):
    model = shelf.model(name)
    run = model.run(shelf.ids(), read=["attn_norm.scale"], grad=True)
    with pytest.raises(SiteAbsent, match="attn_norm.scale"):
        run.grad(cb.logit_diff(3, 5), ["attn_norm.scale"])


def test_every_editable_site_has_been_differentiated():
    """Between them the families above cover the whole table."""
    covered = {n for name in shelf.FAMILIES for n in shelf.editable(shelf.model(name).anatomy)}
    assert covered == {name for name, kind in SITES.items() if kind.editable}
