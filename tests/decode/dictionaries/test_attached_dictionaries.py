"""Features as sites: read, edited, generated under, swept and differentiated, on tiny models of several families."""

from typing import Any

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import Dictionary, Facts, Standard, TopK, attach, attached, detach
from caseback.errors import ArgumentError, LoadError, UnknownSite
from caseback.localize.components import patch
from exact import exact

METRIC = cb.logit_diff(5, 7)
KINDS = ["resid", "z", "transcoder", "layer_norm"]


def _one(model: cb.Model, kind: str, layer: int) -> Dictionary:
    width = model.d_model
    sites = {"z": (f"z.{layer}", ""), "transcoder": (f"mlp_in.{layer}", f"mlp_out.{layer}")}
    site, target = sites.get(kind, (f"resid_mid.{layer}", ""))
    if kind == "z":
        width = model.run([[1]], read=["z"])["z", layer][0, 0].numel()
    normalization = "layer_norm" if kind == "layer_norm" else "none"
    facts = Facts(site=site, target=target, normalization=normalization)
    kind_of, options = (TopK, {"k": 6}) if layer else (Standard, {})
    more: Any = {"facts": facts, "seed": layer, "dtype": torch.float64, **options}
    one = kind_of(width, 4 * width, **more)
    one.b_dec.data = 0.1 * torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return one


@pytest.fixture(params=[(name, kind) for name in shelf.FEW for kind in KINDS], ids=lambda p: "-".join(p))
def features(request):
    name, kind = request.param
    model = shelf.model(name)
    if any(not model.anatomy.has(cb.Site("resid_mid", layer)) for layer in (0, 1)) and kind in ("resid", "layer_norm"):
        pytest.skip("attention and MLP stand side by side in this family: there is no stream between them")
    dictionaries = [_one(model, kind, 0), _one(model, kind, 1)]
    with attached(model, dictionaries):
        yield model, dictionaries


@pytest.mark.parametrize("padding", ["left", "right"])
def test_they_are_the_codes_and_reading_them_changes_nothing(features, padding):
    model, dictionaries = features
    tokens = model.tokens(shelf.ids((9, 6)), padding=padding)
    site = dictionaries[1].facts.site
    with exact():
        run, plain = model.run(tokens, read=["feature", site]), model.run(tokens)
    own = tokens.mask
    states = run[site.split(".")[0], 1][own].flatten(1)
    torch.testing.assert_close(run["feature", 1][own], dictionaries[1].encode(states).detach())
    assert torch.equal(run.logits[own], plain.logits[own])


def test_an_edit_adds_what_the_feature_writes(features):
    model, dictionaries = features
    tokens = model.tokens(shelf.ids((9, 6)))
    one = dictionaries[1]
    written = one.facts.target or one.facts.site
    row = one.W_dec.detach()[3]
    with exact():
        read = model.run(tokens, read=["feature", one.facts.site, written])
    if one.facts.normalization == "layer_norm":
        row = row * (read[written][0, 2].std() + 1e-5)
    if row.shape != read[written][0, 2].shape:
        row = row.view_as(read[written][0, 2])
    with exact():
        ours = model.run(tokens, edits=cb.Add("feature", 2.5, layer=1, pos=2, unit=3)).logits[0, :9]
        name, layer = written.split(".")
        by_hand = model.run(tokens, edits=cb.Add(name, 2.5 * row, layer=int(layer), pos=2)).logits[0, :9]
        plain = model.run(tokens).logits[0, :9]
    torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-9)
    assert (ours - plain).abs().max() > 1e-4


def test_sweeps_and_patches_are_single_runs(features):
    model, _ = features
    tokens = model.tokens(shelf.ids((9, 7)))
    other = model.run([[(t + 1) % model.d_vocab for t in row] for row in shelf.ids((9, 7))], read=["feature"])
    variants = [cb.Add("feature", 1.5, layer=layer, unit=2, pos=pos) for layer in (0, 1) for pos in (0, 3, -1)]
    variants += [cb.Resample("feature", other, layer=1, pos=-2), cb.Zero("feature", layer=0)]
    with exact():
        swept = model.sweep(tokens, variants, METRIC)
        alone = torch.stack([METRIC(model.run(tokens, edits=edit)) for edit in variants])
    torch.testing.assert_close(torch.tensor(swept.values), alone.double(), rtol=1e-9, atol=1e-9)


def test_a_gradient_is_that_of_what_features_write(features):
    model, dictionaries = features
    tokens = model.tokens(shelf.ids((9,)))
    with exact():
        gradient = model.run(tokens, read=["feature"], grad=True).grad(METRIC, ["feature"])["feature", 1][0, 4]
        step = 1e-5
        units = [0, 3, 17]
        both = [
            [METRIC(model.run(tokens, edits=cb.Add("feature", s, layer=1, pos=4, unit=u))) for s in (step, -step)]
            for u in units
        ]
    slopes = torch.stack([(up - down)[0] / (2 * step) for up, down in both]).double()
    torch.testing.assert_close(gradient[units].double(), slopes, rtol=1e-4, atol=1e-7)


def test_cached_generation_under_an_edit_is_that_without_a_cache(features):
    model, _ = features
    edit = cb.Add("feature", 3.0, layer=1, unit=5)
    ids = shelf.ids((6, 4))
    with exact():
        cached = model.generate(ids, edits=edit, max_new_tokens=4)
        plain = model.generate(ids, edits=edit, max_new_tokens=4, use_cache=False)
    assert torch.equal(cached.ids, plain.ids)


def test_the_error_is_what_features_do_not_say():
    model = shelf.model(shelf.FEW[0])
    one = _one(model, "resid", 1)
    tokens = model.tokens(shelf.ids((7,)))
    with attached(model, one) as names:
        assert names == ["feature", "feature_error"]
        run = model.run(tokens, read=["feature_error", "resid_mid"])
        with exact():
            without = model.run(tokens, edits=cb.Zero("feature_error", layer=1)).logits
            spliced = model.run(tokens, edits=cb.Apply("resid_mid", lambda x: one(x).to(x), layer=1)).logits
        x, error = run["resid_mid", 1], run["feature_error", 1]
    torch.testing.assert_close(error, x - one(x).detach().to(x))
    torch.testing.assert_close(without, spliced, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_codes_of_another_dtype_are_written_too(dtype):
    model = shelf.model("llama")
    one = _one(model, "resid", 1)
    x, step = torch.randn(3, model.d_model, dtype=torch.float64), torch.zeros(3, one.n_features, dtype=torch.float64)
    step[:, 2] = 0.5
    expected = one.change(torch.zeros_like(step), step, x)
    other = one.to(dtype).change(torch.zeros_like(step), step, x)
    torch.testing.assert_close(other.double(), expected, rtol=1e-2, atol=1e-3)


def test_patching_takes_features():
    model = shelf.model(shelf.FEW[0])
    one = _one(model, "resid", 1)
    clean, corrupt = shelf.ids((8,)), [[(t + 1) % model.d_vocab for t in shelf.ids((8,))[0]]]
    with attached(model, one):
        effects = patch(model, clean, corrupt, METRIC, site="feature", by=("layer", "feature"))
    assert effects.sizes["feature"] == one.n_features and effects.layer.values.tolist() == [1]


def test_what_cannot_be_attached_is_refused():
    model = shelf.model(shelf.FEW[0])
    one, other = _one(model, "resid", 1), _one(model, "resid", 1)
    with pytest.raises(ArgumentError, match=r"two dictionaries are of layer 1"):
        attach(model, [one, other])
    with pytest.raises(ArgumentError, match=r"dictionaries of several sites"):
        attach(model, [one, _one(model, "z", 0)])
    with pytest.raises(ArgumentError, match=r"does not say which site"):
        attach(model, Standard(model.d_model, 8))
    with pytest.raises(LoadError, match=r"is of width"):
        attach(model, Standard(model.d_model + 1, 8, facts=Facts(site="resid_post.1")))
    foreign = Standard(model.d_model, 8, facts=Facts(site="resid_post.1", model="google/gemma-2-2b"))
    with pytest.raises(LoadError, match="was made for 'google/gemma-2-2b'"):
        attach(model, foreign)
    with attached(model, foreign, force=True, name="forced"), pytest.raises(UnknownSite):
        model.run([[1]], read=[("forced", 0)])
    with pytest.raises(UnknownSite, match="is not a registered site"):
        detach("forced")
