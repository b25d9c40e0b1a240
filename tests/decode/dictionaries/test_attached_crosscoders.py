"""Crosscoders of a model's layers as sites: read where the last source is, and edited there, on several families."""

from typing import Any

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import (
    CrossLayerTopK,
    Facts,
    StandardCrosscoder,
    TopKCrosscoder,
    attach,
    attached,
    feature_words,
    features_on,
    nearest_features,
)
from caseback.decode.dictionaries.features.places import written_norms, written_to_stream
from caseback.errors import ArgumentError, EditError, LoadError, UnknownSite
from caseback.model.anatomy.registered_sites import register_site
from caseback.model.anatomy.sites import Site
from exact import exact

METRIC = cb.logit_diff(5, 7)
KINDS = {
    "stream": ["resid_post.0", "resid_post.1"],
    "last first": ["resid_post.1", "resid_post.0"],
    "unlike": ["resid_pre.0", "mlp_out.1"],
    "heads": ["z.0", "z.1"],
    "layer_norm": ["resid_post.0", "resid_post.1"],
}


def cross(model: cb.Model, kind: str) -> Any:
    sites = KINDS[kind]
    width = model.run([[1]], read=[sites[0]])[Site(*_parts(sites[0])).key][0, 0].numel()
    how: Any = {"normalization": "layer_norm" if kind == "layer_norm" else "scale", "provenance": {"sites": sites}}
    of: Any = TopKCrosscoder if kind != "unlike" else StandardCrosscoder
    more: Any = {"k": 6} if of is TopKCrosscoder else {}
    one = of(width, 4 * width, n_sources=2, dtype=torch.float64, facts=Facts(by_norm=True, **how), **more)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in one.parameters():
            value += 0.1 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        one.scale.copy_(torch.tensor([[0.4], [0.9]]))
        one.out_scale.copy_(one.scale)
    return one


def _parts(site: str) -> tuple[str, int]:
    name, layer = site.split(".")
    return name, int(layer)


@pytest.fixture(params=[(name, kind) for name in shelf.FEW for kind in KINDS], ids=lambda p: "-".join(p))
def features(request):
    name, kind = request.param
    model = shelf.model(name)
    one = cross(model, kind)
    with attached(model, one):
        yield model, one, KINDS[kind]


def states(run: cb.Run, sites: list[str]) -> torch.Tensor:
    return torch.stack([run[_parts(site)].flatten(2) for site in sites], -2)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_they_are_the_codes_and_reading_them_changes_nothing(features, padding):
    model, one, sites = features
    tokens = model.tokens(shelf.ids((9, 6)), padding=padding)
    with exact():
        run, plain = model.run(tokens, read=["feature", *sites]), model.run(tokens)
    torch.testing.assert_close(run["feature", 1], one.encode(states(run, sites)).detach())
    assert torch.equal(run.logits[tokens.mask], plain.logits[tokens.mask])


def test_an_edit_adds_what_the_feature_writes_to_the_last_source(features):
    model, one, sites = features
    tokens, last = model.tokens(shelf.ids((9, 6))), sites.index(max(sites, key=lambda site: site[-1]))
    name, layer = _parts(sites[last])
    with exact():
        read = model.run(tokens, read=[sites[last]])[name, layer]
        row = one.rows()[3, last].detach()
        row = row * (read[0, 2].std() + 1e-5) if one.facts.normalization == "layer_norm" else row / one.scale[last]
        ours = model.run(tokens, edits=cb.Add("feature", 2.5, layer=1, pos=2, unit=3)).logits[0, :9]
        edit = cb.Add(name, (2.5 * row).view_as(read[0, 2]), layer=layer, pos=2)
        by_hand, plain = model.run(tokens, edits=edit).logits[0, :9], model.run(tokens).logits[0, :9]
    torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-9)
    assert (ours - plain).abs().max() > 1e-5


def test_sweeps_are_single_runs(features):
    """Variants of other places stand beside in a pass, some of which join it only behind the first source."""
    model, one, _ = features
    tokens = model.tokens(shelf.ids((9, 7)))
    variants: list[Any] = [cb.Add("feature", 1.5, layer=1, unit=2, pos=pos) for pos in (0, 3, -1)]
    variants += [cb.Zero("feature", layer=1), cb.Zero("mlp_out", layer=1, pos=2), cb.Zero("resid_pre", layer=0, pos=4)]
    variants.append([cb.Zero("z", layer=0, head=0), cb.Add("feature", 1.5, layer=1, unit=2, pos=-1)])
    with exact():
        unit = int(model.run(tokens, read=["feature"])["feature", 1][0, 8].abs().argmax())
        for metric in (METRIC, cb.activation("feature", layer=1, unit=unit)):
            swept = model.sweep(tokens, variants, metric)
            runs = [model.run(tokens, edits=edit, read=["feature"]) for edit in variants]
            alone = torch.stack([metric(run) for run in runs])
            torch.testing.assert_close(torch.tensor(swept.values), alone.double(), rtol=1e-9, atol=1e-9)
            assert float(alone.detach().std(0).max()) > 1e-6


def test_a_gradient_is_that_of_what_features_write(features):
    model, *_ = features
    tokens, step, units = model.tokens(shelf.ids((9,))), 1e-5, [0, 3, 17]
    with exact():
        gradient = model.run(tokens, read=["feature"], grad=True).grad(METRIC, ["feature"])["feature", 1][0, 4]
        ends = [
            [float(METRIC(model.run(tokens, edits=cb.Add("feature", s, layer=1, pos=4, unit=u)))) for u in units]
            for s in (step, -step)
        ]
    up, down = torch.tensor(ends, dtype=torch.float64)
    torch.testing.assert_close(gradient[units].double(), (up - down) / (2 * step), rtol=1e-4, atol=1e-7)


def test_cached_generation_under_an_edit_is_that_without_a_cache(features):
    model, *_ = features
    edit, ids = cb.Add("feature", 3.0, layer=1, unit=5), shelf.ids((6, 4))
    with exact():
        cached = model.generate(ids, edits=edit, max_new_tokens=4)
        plain = model.generate(ids, edits=edit, max_new_tokens=4, use_cache=False)
    assert torch.equal(cached.ids, plain.ids)


def test_the_error_is_what_features_leave_of_the_last_source():
    model = shelf.model("llama")
    one = cross(model, "stream")
    tokens = model.tokens(shelf.ids((7,)))
    with attached(model, one) as names:
        assert names == ["feature", "feature_error"]
        with exact():
            run = model.run(tokens, read=["feature_error", "resid_post"])
            x = states(run, KINDS["stream"])
            without = model.run(tokens, edits=cb.Zero("feature_error", layer=1)).logits
            spliced = model.run(tokens, edits=cb.Replace("resid_post", one(x)[..., 1, :].detach(), layer=1)).logits
        torch.testing.assert_close(run["feature_error", 1], (x - one(x)).detach()[..., 1, :])
    torch.testing.assert_close(without, spliced, rtol=1e-9, atol=1e-9)


def test_a_cross_layer_transcoders_features_are_read_alone():
    model = shelf.model("llama")
    facts = Facts(site="mlp_in", target="mlp_out")
    width = model.d_model
    clt = CrossLayerTopK(width, 2 * 16, n_layers=2, k=4, facts=facts, dtype=torch.float64, start_across=True)
    tokens = model.tokens(shelf.ids((7, 4)))
    with attached(model, clt) as names:
        assert names == ["feature"]
        run = model.run(tokens, read=["feature", "mlp_in"])
        with pytest.raises(EditError, match="'feature' is only read"):
            model.run(tokens, edits=cb.Zero("feature", layer=1))
        codes = clt.encode(states(run, ["mlp_in.0", "mlp_in.1"])).detach()
        torch.testing.assert_close(run["feature", 1], codes)
    norms = written_norms(clt)
    torch.testing.assert_close(norms[:16], clt.decoder(0).norm(dim=-1).detach())
    assert bool((norms[16:, 0] == 0).all())
    wanted = torch.cat([clt.decoder(0).sum(1), clt.decoder(1)[:, 0]]).detach()
    torch.testing.assert_close(written_to_stream(clt), wanted)
    assert nearest_features(clt, [20], top=2)[0].shape == (1, 2)


def test_what_features_write_is_read_behind_all_that_they_write():
    model = cb.load("meadow")
    for sites, wanted in ((["resid_post.1", "resid_post.0"], 0), (["mlp_out.0", "mlp_out.1"], None)):
        facts = Facts(by_norm=True, normalization="scale", provenance={"sites": sites})
        one = TopKCrosscoder(160, 32, n_sources=2, k=4, facts=facts)
        one.out_scale.copy_(torch.tensor([[0.5], [0.25]]))
        rows = one.rows().detach() / one.out_scale
        rows[3] = 0
        rows[3, 0] = torch.linalg.pinv(model.weights.folded().W_U)[model.token_id(" cat")]
        one.W_dec.data = (rows * one.out_scale).flatten(1)
        torch.testing.assert_close(written_to_stream(one), rows.sum(1) if wanted is None else rows[:, wanted])
        assert feature_words(model, one, [3], top=2)["up_token"].values[0, 0] == " cat"
        read = features_on(model, one, "the cat")
        assert read["active"].values.tolist() == [[4, 4, 4]] and read.attrs["site"] == " + ".join(sites)


def test_what_cannot_be_attached_is_refused():
    model = shelf.model("llama")
    one = cross(model, "stream")
    with pytest.raises(ArgumentError, match="two dictionaries are of layer 1"):
        attach(model, [one, cross(model, "last first")])
    two: Any = TopKCrosscoder(model.d_model, 32, n_sources=2, k=4, facts=Facts(provenance={"sites": ["base", "chat"]}))
    with pytest.raises(ArgumentError, match="of base, chat: one model's pass has no such sites.*latent_scaling"):
        attach(model, two)
    wide = TopKCrosscoder(model.d_model + 1, 32, n_sources=2, k=4, facts=one.facts)
    with pytest.raises(LoadError, match="is of width"):
        attach(model, wide)
    with pytest.raises(UnknownSite, match="expected resid_post.0 as the last of them"):
        sources = {0: [Site("resid_post", 1), Site("resid_post", 0)]}
        register_site("feature", "resid_post", {0: one}, sources=sources)
