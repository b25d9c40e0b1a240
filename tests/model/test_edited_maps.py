"""An edit of all keys is of those that a query sees: neither padding nor what comes later changes what it does."""

import pytest
import torch

import caseback as cb
import shelf
from exact import exact

ROWS = shelf.ids((8, 3, 5))
EDITS = {
    "add": cb.Add("pattern", 0.2, layer=1, pos=slice(1, None)),
    "one head": cb.Add("pattern", 0.2, layer=1, head=1),
    "a key": cb.Add("pattern", 0.2, layer=1, unit=2),
    "replace": cb.Replace("pattern", 0.1, layer=1),
    "zero": cb.Zero("scores", layer=1),
    "scale": cb.Scale("scores", 0.0, layer=1, head=[0, 2]),
    "function": cb.Apply("pattern", lambda x: x + 0.1, layer=1),
}


@pytest.fixture(params=["gpt2", "llama", "gpt_oss", "falcon_alibi", "deepseek_v2"])
def model(request):
    with exact():
        yield shelf.model(request.param)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_in_a_padded_batch_as_alone(model, edit):
    alone = [model.run([row], edits=edit, read=["pattern"]) for row in ROWS]
    for side in ("left", "right"):
        tokens = model.tokens(ROWS, padding=side)
        together = model.run(tokens, edits=edit, read=["pattern"])
        for b, run in enumerate(alone):
            own = tokens.mask[b]
            torch.testing.assert_close(together.logits[b, own], run.logits[0], rtol=1e-9, atol=1e-9)
            maps = together["pattern"][:, b][..., own]
            torch.testing.assert_close(maps[:, :, own], run["pattern"][:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_later_tokens_change_nothing(model, edit):
    whole, beginning = (model.run([row], edits=edit).logits[0, :4] for row in (ROWS[0], ROWS[0][:4]))
    torch.testing.assert_close(whole, beginning, rtol=1e-9, atol=1e-9)


def test_a_sweep_to_an_early_position(model):
    metric = cb.logit(5, pos=1)
    variants = [[cb.Add("embed", 0.3, pos=0), edit] for edit in EDITS.values()]
    swept = torch.tensor(model.sweep(ROWS, variants, metric).values)
    by_hand = torch.stack([metric(model.run(ROWS, edits=edits)) for edits in variants])
    torch.testing.assert_close(swept, by_hand.to(swept), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_decoding_with_and_without_a_cache(model, edit):
    cached, anew = (model.generate(ROWS, edits=edit, max_new_tokens=4, use_cache=use) for use in (True, False))
    assert torch.equal(cached.ids, anew.ids)


@pytest.mark.parametrize("name", ["mistral", "ministral", "gpt_oss"])
def test_keys_outside_a_window_stay_untouched(name):
    """A window shorter than the prompt: its mask says what a query sees, in a run, in a sweep and in decoding."""
    model, rows = shelf.model(name), [row * 2 for row in ROWS]
    with exact():
        plain = model.run(rows, read=["pattern"])
        for edit in (
            cb.Replace("pattern", 0.1),
            cb.Replace("pattern", 0.1, head=1),
            cb.Add("pattern", 0.1, unit=[0, 2]),
        ):
            run = model.run(rows, edits=edit, read=["pattern"])
            hidden = plain["pattern"] == 0
            assert bool(hidden.tril().any()) and bool((run["pattern"][hidden] == 0).all())
            assert not torch.equal(run["pattern"], plain["pattern"])
            metric = cb.logit(5)
            swept = torch.tensor(model.sweep(rows, [[cb.Add("embed", 0.3, pos=2), edit]], metric).values)
            by_hand = metric(model.run(rows, edits=[cb.Add("embed", 0.3, pos=2), edit]))
            torch.testing.assert_close(swept[0], by_hand.to(swept), rtol=1e-9, atol=1e-9)
            cached, anew = (model.generate(rows, edits=edit, max_new_tokens=4, use_cache=use) for use in (True, False))
            assert torch.equal(cached.ids, anew.ids)
