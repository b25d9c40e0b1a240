"""Passes that are made once: what is handed out again is what a pass of its own gives, and nothing else is shared."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.model.sweeping.shared_passes import share, shared_passes
from caseback.reports import explain as reports_explain
from caseback.reports.story.counting import counted

PROMPT = "Tom and Lily went to the park. Lily gave the ball to"


def forwards(model, tokens, ask):
    with counted(model, tokens.shape[1]) as work:
        ask()
    return work.forwards


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.mark.parametrize("name", shelf.FEW)
def test_shared_sites_are_those_of_a_pass_of_their_own(name):
    model = shelf.model(name)
    tokens = model.tokens([[3, 5, 7, 2], [4, 6]])
    own = model.run(tokens, read=["resid_post", "z"])
    with shared_passes():
        share(model.anatomy, tokens)
        model.run(tokens, read=["z"])
        model.run(tokens, read=["resid_post"])
        assert forwards(model, tokens, lambda: model.run(tokens, read=["resid_post", "z"])) == 0
        shared = model.run(tokens, read=["resid_post", "z"])
    assert set(shared.sites) == set(own.sites) and not shared.edited
    assert all(torch.equal(shared[site.name, site.layer], own[site.name, site.layer]) for site in own.sites)
    assert torch.equal(shared.logits, own.logits)


def test_sweeps_start_from_one_recording(meadow):
    tokens, metric = meadow.tokens(PROMPT), cb.logit_diff(" Tom", " Lily")
    heads = [cb.Zero("z", layer=meadow.n_layers - 1, head=h) for h in range(meadow.n_heads)]
    own = meadow.sweep(tokens, heads, metric)
    with shared_passes():
        share(meadow.anatomy, tokens)
        first = forwards(meadow, tokens, lambda: meadow.sweep(tokens, heads, metric))
        assert forwards(meadow, tokens, lambda: meadow.sweep(tokens, heads, metric)) <= first - 1
        again = meadow.sweep(tokens, heads, metric)
        of_embeddings = meadow.sweep(tokens, [cb.Zero("embed", pos=2)], metric)
    np.testing.assert_array_equal(again.values, own.values)
    np.testing.assert_array_equal(of_embeddings.values, meadow.sweep(tokens, [cb.Zero("embed", pos=2)], metric).values)


def test_runs_that_are_not_the_plain_one_are_made(meadow):
    tokens, edit = meadow.tokens(PROMPT), cb.Zero("mlp_out", layer=1)
    edited, plain = meadow.run(tokens, edits=edit).logits, meadow.run(tokens).logits
    with shared_passes():
        share(meadow.anatomy, tokens)
        meadow.run(tokens)
        assert torch.equal(meadow.run(tokens, edits=edit).logits, edited)
        assert torch.equal(meadow.edited(edit).run(tokens).logits, edited)
        assert meadow.run(tokens, grad=True).logits.requires_grad
        assert torch.equal(meadow.run(tokens).logits, plain)
        other = meadow.tokens(PROMPT + " Tom")
        assert meadow.run(other).logits.shape[1] == other.shape[1]
        assert forwards(meadow, other, lambda: meadow.run(other)) == 1  # a prompt that nobody named


def test_a_users_hook_is_called_every_time(meadow):
    tokens, seen = meadow.tokens(PROMPT), []
    handle = meadow.anatomy.layers[0].layer.register_forward_hook(lambda *_: seen.append(1))
    try:
        with shared_passes():
            share(meadow.anatomy, tokens)
            meadow.run(tokens)
            meadow.run(tokens)
    finally:
        handle.remove()
    assert len(seen) == 2


def test_what_outgrows_the_stream_is_read_again(meadow):
    tokens = meadow.tokens(PROMPT)
    with shared_passes():
        share(meadow.anatomy, tokens)
        assert forwards(meadow, tokens, lambda: [meadow.run(tokens, read=["mlp_post"]) for _ in range(2)]) == 2


@pytest.mark.parametrize("depth", ["quick", "normal"])
def test_an_explanation_is_the_same_without_sharing(meadow, monkeypatch, depth):
    ask = lambda: reports_explain.explain(meadow, PROMPT, depth=depth)  # noqa: E731
    shared = ask()
    monkeypatch.setattr(reports_explain, "share", lambda *_: None)
    alone = ask()
    assert shared["story"].pop("forwards") < alone["story"].pop("forwards")
    assert shared == alone
