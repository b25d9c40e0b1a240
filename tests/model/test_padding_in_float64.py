"""Padding in float64: transformers' eager attention makes it NaN, which is said rather than passed on."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize import inputs

METRIC = cb.logit(3)
ROWS = shelf.ids((9, 3))
DOORS = {
    "run": lambda m, t: m.run(t).logits,
    "read": lambda m, t: m.run(t, read=["resid_post"])["resid_post", -1],
    "sweep": lambda m, t: torch.tensor(m.sweep(t, [cb.Zero("mlp_out", layer=0)], METRIC).values),
    "generate": lambda m, t: m.generate(t, max_new_tokens=2).ids,
    "gradient": lambda m, t: torch.tensor(inputs.gradient_x_input(m, t, METRIC).values),
}


def plainly(model, tokens):
    """Whether transformers' own logits of the prompts have NaN at a token of theirs."""
    with torch.no_grad():
        given = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long(), "position_ids": tokens.position_ids}
        return bool(model.hf(**given, use_cache=False).logits[tokens.mask].isnan().any())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["mistral", "llama", "gemma2", "gpt2"])
def test_nan_is_refused_at_every_door_and_nothing_else_is(name, side, door):
    model = shelf.model(name)
    tokens = model.tokens(ROWS, padding=side)
    nan = plainly(model, tokens.padded_on("left") if door == "generate" else tokens)
    if nan:
        with pytest.raises(CasebackError, match="NaN in float64.*sdpa"):
            DOORS[door](model, tokens)
    else:
        assert not DOORS[door](model, tokens)[0].isnan().any()


def test_what_is_advised_works():
    for model in (shelf.model("mistral", "sdpa"), cb.load(shelf.zoo.tiny("mistral").float())):
        for side in ("left", "right"):
            tokens = model.tokens(ROWS, padding=side)
            assert not model.run(tokens).logits[tokens.mask].isnan().any()


def test_some_of_these_are_nan():
    assert any(
        plainly(shelf.model(name), shelf.model(name).tokens(ROWS, padding="left")) for name in ("mistral", "gemma2")
    )
