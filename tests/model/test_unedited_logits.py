"""With no edit the logits are those of transformers to the bit, whatever is read."""

import pytest
import torch

import shelf
from caseback.model.anatomy.sites import SITES
from exact import exact

SDPA = [name for name in shelf.FAMILIES if name not in shelf.EAGER_ONLY]


def theirs(model, tokens):
    given = {"input_ids": tokens.ids}
    with torch.no_grad():
        return model.hf(**given, use_cache=False).logits


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_eager_logits_are_the_same_bits_whatever_is_read(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    expected = theirs(model, tokens)
    assert torch.equal(model.run(tokens).logits, expected)
    names = shelf.readable(model.anatomy)
    for site in names:
        assert torch.equal(model.run(tokens, read=site).logits, expected), site
    run = model.run(tokens, read=names)
    assert torch.equal(run.logits, expected)
    assert torch.equal(run["logits"], expected)


@pytest.mark.parametrize("name", SDPA)
def test_sdpa_logits_are_the_same_bits_whatever_is_read(name):
    model = shelf.model(name, "sdpa")
    assert model.hf.config._attn_implementation == "sdpa"
    tokens = model.tokens(shelf.ids())
    expected = theirs(model, tokens)
    assert torch.equal(model.run(tokens).logits, expected)
    singles = ["q", "k", "v", "scores", "pattern", "z", "resid_mid", "mlp_in", "attn_in"]
    for site in [s for s in singles if s not in model.anatomy.lacks and name not in shelf.COPIES]:
        assert torch.equal(model.run(tokens, read=site).logits, expected), site
    assert torch.equal(model.run(tokens, read=shelf.readable(model.anatomy)).logits, expected)


# transformers' own two paths differ for Falcon with ALiBi: the eager one adds the bias twice.
@pytest.mark.parametrize("name", [n for n in SDPA if n not in {"falcon_alibi", *shelf.COPIES}])
def test_sdpa_and_eager_agree(name):
    """Same seed, same parameters: what is read does not depend on the kernel."""
    tokens = shelf.model(name).tokens(shelf.ids((7, 9)))
    names = [n for n in ("q", "pattern", "z", "resid_post") if n not in shelf.model(name).anatomy.lacks]
    one, two = (shelf.model(name, kind).run(tokens, read=names) for kind in ("eager", "sdpa"))
    for site in names:
        for i in range(2):
            real = slice(0, int(tokens.lengths[i]))
            a, b = (run[site][:, i] for run in (one, two))
            a, b = (x[:, :, real, real] if site == "pattern" else x[:, real] for x in (a, b))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_gradients_kept_change_no_logit(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids())
    assert torch.equal(model.run(tokens, grad=True).logits, theirs(model, tokens))
    with exact():
        logits = model.run(tokens, read=shelf.readable(model.anatomy), grad=True).logits
        torch.testing.assert_close(logits.detach(), theirs(model, tokens), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", shelf.FEW)
def test_every_site_has_the_shape_that_its_table_says(name):
    model = shelf.model(name)
    anatomy = model.anatomy
    run = model.run(shelf.ids((6, 8)), read=shelf.readable(anatomy))
    sizes = {"pos": 8, "query": 8, "key": 8, "d_model": model.d_model, "vocab": model.d_vocab}
    for site in run.sites:
        x = run[site]
        dims = SITES[site.name].dims
        assert x.ndim == len(dims) + 1 and x.shape[0] == 2, site
        for size, dim in zip(x.shape[1:], dims, strict=True):
            heads = {"head": model.n_heads, "kv_head": anatomy.layers[site.layer or 0].dims.n_kv_heads}
            assert size == {**sizes, **heads}.get(dim, size), (site, dim)
        assert not x.requires_grad
    layered = [n for n in shelf.readable(anatomy) if SITES[n].layered and n not in ("router", "expert")]
    for site in layered:
        if all(anatomy.has(s) for s in anatomy.sites(site)):
            assert run[site].shape[0] == len(list(anatomy.sites(site)))
