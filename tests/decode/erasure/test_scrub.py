"""Scrubbing in one walk through the layers: the numbers of a pass a site, at the cost of one forward."""

from collections import Counter
from functools import partial

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import read_states
from caseback.decode.erasure import leace, scrub
from caseback.errors import CasebackError
from caseback.jobs.budget import override
from exact import exact

DRAW = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(1, 50, (int(n),), generator=DRAW).tolist() for n in torch.randint(3, 8, (40,), generator=DRAW)]
LABELS = ["even" if text[0] % 2 else "odd" for text in TEXTS]
FIT = partial(leace, shrinkage=False, svd_tol=1e-12)
SITES = ("resid_post", ["embed", "attn_out", "mlp_out", "resid_post", "final_norm"], ["mlp_out", "resid_pre"])


def _pass_by_pass(model, order, pos):
    """The definition: each eraser fitted to a run of the whole model under all before it."""
    below, parts = [], []
    for name in order:
        states = read_states(model.edited(below), TEXTS, sites=[name], pos=pos, batch_tokens=64)
        each = [LABELS[prompt] for prompt in states.prompt.tolist()]
        parts.append(FIT(states, each))
        below += parts[-1].edits(pos)
    return parts


def _expect_same(eraser, parts):
    wanted = torch.cat([part.proj_left @ part.proj_right for part in parts])
    torch.testing.assert_close(eraser.proj_left @ eraser.proj_right, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(eraser.mean, torch.cat([part.mean for part in parts]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", shelf.FEW)
def test_numbers_are_those_of_a_pass_a_site(name):
    model = shelf.model(name)
    with exact():
        for sites, pos in zip(SITES, (-1, None, None), strict=True):
            eraser = scrub(model, TEXTS, LABELS, sites=sites, pos=pos, fit=FIT, batch_tokens=64)
            _expect_same(eraser, _pass_by_pass(model, eraser.names, pos))


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_edits_that_stand_in_the_model_are_made_once(name):
    plain = shelf.model(name)
    towards = torch.randn(plain.d_model, generator=DRAW, dtype=torch.float64)
    standing = [cb.Add(site, towards, pos=1) for site in ("embed", "resid_pre", "attn_out", "resid_post")]
    model = plain.edited([*standing, cb.Scale("z", 0.5, head=0)])
    with exact():
        eraser = scrub(model, TEXTS, LABELS, sites=SITES[1], fit=FIT, batch_tokens=64)
        _expect_same(eraser, _pass_by_pass(model, eraser.names, None))


def test_streams_in_files_and_positions_of_each_prompt_give_the_same():
    model = shelf.model("llama")
    last = torch.tensor([len(text) - 1 for text in TEXTS])
    with exact():
        wanted = _pass_by_pass(model, [f"resid_post.{i}" for i in range(model.n_layers)], -1)
        with override(held_stream_bytes=0):
            _expect_same(scrub(model, TEXTS, LABELS, pos=-1, fit=FIT, batch_tokens=64), wanted)
        _expect_same(scrub(model, TEXTS, LABELS, pos=last, fit=FIT, batch_tokens=64), wanted)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_stream_costs_one_forward_and_other_sites_a_run_of_their_layer_each(name, monkeypatch):
    model = shelf.model(name)
    layers = [parts.layer for parts in model.anatomy.layers]
    kind, calls = type(layers[0]), Counter()
    own = kind.forward

    def counted(self, *args, **kwargs):
        calls[layers.index(self)] += 1
        return own(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", counted)
    n = len(layers)
    for sites, each in (("resid_post", [1] * n), (["attn_out", "mlp_out", "resid_post"], [3] * n)):
        calls.clear()
        scrub(model, TEXTS, LABELS, sites=sites)
        assert [calls[layer] for layer in range(n)] == each
    calls.clear()
    scrub(model, TEXTS, LABELS, sites="mlp_out")  # once to read, once to go on; nothing goes on from the last
    assert [calls[layer] for layer in range(n)] == [2] * (n - 1) + [1]
    calls.clear()
    scrub(model, TEXTS, LABELS, sites=f"resid_post.{n - 1}")
    assert [calls[layer] for layer in range(n)] == [1] * n


def test_a_hook_of_the_callers_on_a_layer_is_refused_and_elsewhere_acts():
    model = shelf.model("gpt2")
    layer = model.anatomy.layers[0].layer
    handle = layer.register_forward_hook(lambda *_: None)
    try:
        with pytest.raises(CasebackError, match="transformer.h.0 has a forward hook of yours, and scrubbing"):
            scrub(model, TEXTS, LABELS)
    finally:
        handle.remove()
    handle = model.anatomy.layers[0].mlp.register_forward_hook(lambda _, __, output: output * 2)
    try:
        with exact():
            eraser = scrub(model, TEXTS, LABELS, fit=FIT, batch_tokens=64)
            _expect_same(eraser, _pass_by_pass(model, eraser.names, None))
    finally:
        handle.remove()
