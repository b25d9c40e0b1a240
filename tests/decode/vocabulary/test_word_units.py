"""A word's units are those that every unit's whole row of logits puts first."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.decode.vocabulary import units_of_word
from caseback.errors import CasebackError, OutOfRange, TargetError
from zoo import tiny

WORD = 17


@pytest.mark.parametrize("family", ("gpt2", "llama", "bloom", "gpt_neox", "olmo2"))
@pytest.mark.parametrize("folded", (True, False))
def test_units_are_ranked_as_by_all_their_logits(family, folded):
    model = cb.load(tiny(family))
    weights = model.weights.folded() if folded else model.weights
    got = units_of_word(model, WORD, k=3, folded=folded)
    assert got.attrs["entry"] == "4.3.9" and got["top_unit"].dims == ("path", "k")
    tables = {"in": weights.W_E.T.detach(), "out": weights.W_U.detach()}
    for path in got["path"].values.tolist():
        rows = {}
        for layer in range(model.n_layers):
            if path == "ov":
                heads = weights.OV.per_head[layer]
                both = torch.einsum("hde,hef->hdf", heads.left.detach(), heads.right.detach())
                own = tables["in"][:, WORD] @ both
            else:
                own = getattr(weights, f"W_{path}")[layer].detach()
                own = own if path == "out" else own.T
            rows |= {f"L{layer}{'H' if path == 'ov' else 'N'}{i}": row for i, row in enumerate(own)}
        logits = torch.stack(list(rows.values())) @ tables["out" if path in ("out", "ov") else "in"]
        z = (logits[:, WORD] - logits.mean(1)) / logits.std(1, correction=0)
        order = z.argsort(descending=True)
        names = np.array(list(rows))
        here = got.sel(path=path)
        assert here["top_unit"].values.tolist() == names[order[:3]].tolist()
        assert here["bottom_unit"].values.tolist() == names[order.flip(0)[:3]].tolist()
        np.testing.assert_allclose(here["top_value"], z[order[:3]], rtol=1e-6)
        ranks = (logits > logits[:, WORD, None]).sum(1) + 1
        assert here["top_rank"].values.tolist() == ranks[order[:3]].tolist()


def test_a_planted_unit_is_first():
    model = cb.load(tiny("gpt2"))
    with torch.no_grad():
        model.weights.W_out[1][5] = model.weights.folded().W_U[:, WORD] * 3
    found = units_of_word(model, WORD, k=1).sel(path="out")
    assert found["top_unit"].item() == "L1N5" and found["top_rank"].item() == 1


def test_experts_have_no_names_and_are_left_out():
    assert units_of_word(cb.load(tiny("olmoe")), WORD, k=2)["path"].values.tolist() == ["ov"]


def test_bad_input_is_refused_in_words():
    model = cb.load("meadow")
    for word, error in (("two words", TargetError), (10**6, CasebackError), ("", CasebackError)):
        with pytest.raises(error):
            units_of_word(model, word)
    with pytest.raises(OutOfRange):
        units_of_word(model, " Mary", k=0)
