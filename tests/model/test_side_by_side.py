"""Variants side by side are what each of them is by itself."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.model.sweeping.side_by_side import side_by_side
from exact import exact

READ = ["mlp_out", "z", ("resid_post", -1)]


@pytest.mark.parametrize("name", shelf.FEW)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_variant_is_the_run_with_its_edits(name, side):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((7, 4)), padding=side)
    other = model.run(shelf.ids((7, 4), seed=3), read=["mlp_out"])
    variants = [
        cb.Zero("z", layer=0, head=1),
        [cb.Scale("mlp_out", 0.5, layer=1, pos=-1), cb.Zero("z", layer=2, head=0, pos=torch.tensor([2, 0]))],
        cb.Resample("mlp_out", other, layer=0),
        cb.Mean("z", layer=1),
    ]
    with exact():
        alone = [model.run(tokens, edits=edits, read=READ) for edits in variants]
        for budget in (1, 3 * tokens.ids.numel()):
            seen = []
            for which, run in side_by_side(model.anatomy, tokens, variants, READ, token_budget=budget):
                seen += list(which)
                for i, variant in enumerate(which):
                    rows = slice(i * len(tokens), (i + 1) * len(tokens))
                    for site in (("mlp_out", 0), ("z", 2), ("resid_post", -1)):
                        made, told = run[site][rows][tokens.mask], alone[variant][site][tokens.mask]
                        torch.testing.assert_close(made, told, rtol=1e-9, atol=1e-9)
            assert seen == [0, 1, 2, 3]


def test_nothing_is_unembedded_and_nothing_left():
    model = shelf.model("llama")
    before = model.run([1, 2, 3]).logits
    _, run = next(side_by_side(model.anatomy, model.tokens([1, 2, 3]), [cb.Zero("z", layer=0)], ["z"]))
    with pytest.raises(cb.CasebackError, match="no logits"):
        _ = run.logits
    assert torch.equal(model.run([1, 2, 3]).logits, before)
