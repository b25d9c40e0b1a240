"""Padding is on either side and never changes a result."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.model.anatomy.sites import SITES
from exact import exact

ROWS = shelf.ids((9, 6, 4))


def own(tokens, i, name, x):
    """Prompt i's own entries of a site's tensor (without the layer dimension)."""
    start, n = int(tokens.first[i]), int(tokens.lengths[i])
    real = slice(start, start + n)
    x = x[i]
    return x[:, real, real] if name in ("scores", "pattern") else x[real]


@pytest.mark.parametrize("name", shelf.DISTINCT)
@pytest.mark.parametrize("side", ["left", "right"])
def test_sites_and_logits_are_those_of_the_prompt_alone(name, side):
    model = shelf.model(name)
    names = shelf.readable(model.anatomy)
    with exact():
        tokens = model.tokens(ROWS, padding=side)
        padded = model.run(tokens, read=names)
        for i, row in enumerate(ROWS[1:], start=1):
            alone = model.run([row], read=names)
            for site in padded.sites:
                a, b = own(tokens, i, site.name, padded[site]), alone[site][0]
                if site.name == "scores":
                    seen = torch.ones_like(b).tril().bool()
                    a, b = a[seen], b[seen]
                    a, b = (x.clamp_min(-1e9) for x in (a, b))  # what a window masks is as low as its type allows
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=f"{site}, prompt {i}")


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_edits_and_metrics_find_the_same_tokens(name):
    model = shelf.model(name)
    metrics = [cb.logit_diff(3, 5), cb.loss(), cb.prob(7, pos=2), cb.log_prob([4, 5, 6], pos=torch.tensor([0, -2, 3]))]
    edits = [
        cb.Zero("z", layer=0, head=1, pos=-1),
        cb.Add("resid_post", 0.3, layer=0, pos=[0, 2]),
        cb.Scale("v", 0.5, layer=1, pos=slice(1, 3)),
        cb.Knockout(layer=2, query=-1, key=[0, 2]),
        cb.Zero("pattern", layer=1, head=0, pos=torch.tensor([1, 2, 3]), unit=1),
        cb.Noise("mlp_out", 0.4, layer=1),
        cb.Mean("attn_out", layer=2, pos=-2),
        cb.Mean("attn_out", per_position=True, layer=1, pos=3),
        cb.Replace("mlp_out", torch.arange(3.0)[:, None], layer=0, pos=1),
        cb.Freeze("mlp_out", layer=2, pos=[0, -1]),
    ]
    with exact():
        runs = {side: model.run(model.tokens(ROWS, padding=side), edits=edits) for side in ("left", "right")}
        for metric in metrics:
            left, right = (metric(runs[side]) for side in ("left", "right"))
            torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)
        for edit in edits[:-4]:
            if getattr(edit, "pos", None) is not None and not isinstance(edit.pos, torch.Tensor):
                together = model.run(model.tokens(ROWS, padding="left"), edits=edit)
                alone = model.run([ROWS[1]], edits=edit)
                torch.testing.assert_close(together.logits[1, -1], alone.logits[0, -1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", shelf.FEW)
def test_a_source_run_may_be_padded_otherwise(name):
    model = shelf.model(name)
    others = shelf.ids((9, 6, 4), seed=3)
    with exact():
        found = []
        for side in ("left", "right"):
            for theirs in ("left", "right"):
                names = ["resid_post", "k", "scores", "pattern"]
                source = model.run(model.tokens(others, padding=theirs), read=names)
                edits = [
                    cb.Resample("resid_post", source, layer=0, pos=[1, -1]),
                    cb.Resample("k", source, layer=1),
                    cb.Resample("pattern", source, layer=2, head=1),
                    cb.Resample("scores", source, layer=1, head=2, pos=-1),
                    cb.Swap("resid_post", torch.eye(model.d_model)[:3], source, layer=1),
                ]
                found.append(cb.logit_diff(3, 5)(model.run(model.tokens(ROWS, padding=side), edits=edits)))
        for value in found[1:]:
            torch.testing.assert_close(value, found[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mistral"])
def test_gradients_do_not_see_padding(name):
    model = shelf.model(name)
    names = [n for n in ("embed", "q", "pattern", "mlp_post", "resid_post") if n not in model.anatomy.lacks]
    with exact():
        grads = {}
        for side in ("left", "right"):
            tokens = model.tokens(ROWS, padding=side)
            grads[side] = (tokens, model.run(tokens, read=names, grad=True).grad(cb.logit_diff(3, 5), names))
        for name_ in names:
            site = shelf.middle(model.anatomy, name_)
            for i in range(3):
                left, right = (own(t, i, site.name, g[site]) for t, g in grads.values())
                torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11, msg=f"{site} {i}")


def test_every_site_is_compared():
    covered = {n for name in shelf.DISTINCT for n in shelf.readable(shelf.model(name).anatomy)}
    assert covered == set(SITES)
