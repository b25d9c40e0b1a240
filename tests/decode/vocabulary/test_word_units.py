"""A word's units are those that every unit's whole row of logits puts first."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.decode.dictionaries import Facts, TopK
from caseback.decode.vocabulary import units_of_word
from caseback.decode.vocabulary.weights.word_units import READS, WRITES
from caseback.errors import CasebackError, LoadError, OutOfRange, TargetError
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


def test_features_of_dictionaries_are_units_too():
    model = cb.load(tiny("llama"))
    d = model.d_model
    post = TopK(d, 40, k=2, facts=Facts(site="resid_post.1"))
    over = TopK(d, 30, k=2, facts=Facts(site="mlp_norm.0", target="mlp_out.0"), seed=1)
    plain = units_of_word(model, WORD, k=2)
    got = units_of_word(model, WORD, k=2, dictionaries=[post, over])
    assert got["path"].values.tolist() == [*plain["path"].values.tolist(), WRITES, READS]
    for path in plain["path"].values:  # other units are as they were
        assert got.sel(path=path).equals(plain.sel(path=path))
    weights = model.weights.folded()
    for path, table, named in ((WRITES, weights.W_U, "W_dec"), (READS, weights.W_E.T, "W_enc")):
        logits = torch.cat([getattr(one, named) for one in (post, over)]).detach().to(table) @ table.detach()
        z = (logits[:, WORD] - logits.mean(1)) / logits.std(1, correction=0)
        sites = ("resid_post", "mlp_out" if path == WRITES else "mlp_norm")
        names = [
            f"L{1 - n}F{i}:{site}"
            for n, (one, site) in enumerate(zip((post, over), sites, strict=True))
            for i in range(one.n_features)
        ]
        assert got.sel(path=path)["top_unit"].values.tolist() == [names[i] for i in z.topk(2).indices]
        np.testing.assert_allclose(got.sel(path=path)["top_value"], z.topk(2).values, rtol=1e-5)
    post.W_dec.data[7] = weights.W_U[:, WORD] * 3
    assert units_of_word(model, WORD, k=1, dictionaries=[post]).sel(path=WRITES)["top_unit"].item() == "L1F7:resid_post"
    for wrong, words in (
        (TopK(d, 4, k=1), "does not say at which site"),
        (TopK(d, 4, k=1, facts=Facts(site="z.0")), "no direction of the stream"),
    ):
        with pytest.raises(LoadError, match=words):
            units_of_word(model, WORD, dictionaries=[wrong])
