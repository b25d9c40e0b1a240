"""What a model loses with a reconstruction: against one edited pass at a time, on several families and paddings."""

from typing import Any

import numpy as np
import pytest
import torch

import shelf
from caseback.decode.dictionaries import Facts, Standard, TopK
from caseback.decode.dictionaries.measures import replacement_measures
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import override
from caseback.model.running.edits import Replace
from exact import exact
from simple_dictionaries import identity, scaled

TEXTS = [[5, 1, 2, 3, 9], [4, 5, 1, 9, 7, 2, 11], [8, 3, 4]]
NAMES = ["gpt2", "llama", "gemma2", "gptj", "mixtral"]


def by_hand(model, site, layer, replace, skip=1):
    """Cross entropy and divergence a token, one text at a time; ``replace`` gives states from states."""
    ce = kl = count = 0.0
    for text in TEXTS:
        plain = model.run(text, read=[f"{site}.{layer}"])
        states = plain[site, layer].clone()
        states[:, skip:] = replace(states[:, skip:])
        p, q = (
            run.logits[0, skip:-1].log_softmax(-1) for run in (plain, model.run(text, edits=[Replace(site, states, layer=layer)]))
        )  # fmt: skip
        ce -= float(q.gather(1, torch.tensor(text[skip + 1 :])[:, None]).sum())
        kl += float((p.exp() * (p - q)).sum())
        count += len(text) - skip - 1
    return ce / count, kl / count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("padding", "budget"), [("left", 10_000), ("right", 8)])
def test_each_number_is_an_edited_pass(name, padding, budget):
    model = shelf.model(name)
    one = TopK(model.d_model, 40, k=3, dtype=torch.float64, facts=Facts(site="resid_post.1"))
    with exact(), override(stream_tokens=budget):
        tokens = model.tokens(TEXTS, padding=padding)
        table = replacement_measures(model, {"one": one}, tokens, n_random=0).sel(dictionary="one")
        states = torch.cat([model.run(t, read=["resid_post.1"])["resid_post", 1][0, 1:] for t in TEXTS])
        wanted = {
            "": by_hand(model, "resid_post", 1, lambda x: one(x).detach()),
            "_zero": by_hand(model, "resid_post", 1, torch.zeros_like),
            "_mean": by_hand(model, "resid_post", 1, lambda x: states.mean(0).expand_as(x)),
        }
        clean, _ = by_hand(model, "resid_post", 1, lambda x: x)
    for key, (ce, kl) in wanted.items():
        assert float(table[f"ce{key}"]) == pytest.approx(ce, abs=1e-9)
        assert float(table[f"kl{key}"]) == pytest.approx(kl, abs=1e-9)
    assert table.attrs["ce_clean"] == pytest.approx(clean, abs=1e-9)
    ce = wanted[""][0]
    assert float(table.ce_increase) == pytest.approx(ce - clean, abs=1e-9)
    assert float(table.ce_recovered) == pytest.approx((wanted["_zero"][0] - ce) / (wanted["_zero"][0] - clean))
    assert float(table.kl_recovered_of_mean) == pytest.approx(1 - wanted[""][1] / wanted["_mean"][1])
    assert table.attrs["tokens"] == sum(len(t) - 2 for t in TEXTS)


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_recovers_all_and_zeros_nothing(name):
    model = shelf.model(name)
    facts = {"site": "mlp_out.1"}
    several = {"id": identity(model.d_model, **facts), "zero": scaled(model.d_model, 0.0, **facts)}
    with exact():
        table = replacement_measures(model, several, TEXTS)
    np.testing.assert_allclose(table.ce_recovered, [1, 0], atol=1e-12)
    np.testing.assert_allclose(table.kl_recovered, [1, 0], atol=1e-12)
    np.testing.assert_allclose(table.ce_increase[0], 0, atol=1e-12)


def test_a_transcoder_reads_one_site_and_stands_at_another():
    """An MLP that is linear in what it reads is its transcoder's skip map; in a model, a copy of the target is exact."""
    model = shelf.model("llama")
    facts = Facts(site="mlp_in.1", target="mlp_out.1", centered=False)
    d = model.d_model
    zero = Standard(d, 8, dtype=torch.float64, facts=facts)
    zero.W_dec.data.zero_()
    skip = Standard(d, 8, dtype=torch.float64, facts=facts, skip=True)
    skip.W_dec.data.zero_()
    assert skip.W_skip is not None
    with exact():
        states = [model.run(t, read=["mlp_in.1", "mlp_out.1"]) for t in TEXTS]
        x, y = (torch.cat([run[site, 1][0, 1:] for run in states]) for site in ("mlp_in", "mlp_out"))
        skip.W_skip.data = torch.linalg.lstsq(x, y).solution  # fewer tokens than dimensions: exact on these
        table = replacement_measures(model, {"zero": zero, "skip": skip}, TEXTS)
    np.testing.assert_allclose(table.ce_recovered, [0, 1], atol=1e-8)


def test_heads_side_by_side_are_a_site():
    model = shelf.model("llama")
    run = model.run(TEXTS[0], read=["z.1"])
    d = run["z", 1].flatten(2).shape[-1]
    with exact():
        table = replacement_measures(model, identity(d, site="z.1"), TEXTS)
    np.testing.assert_allclose(table.ce_recovered, [1], atol=1e-12)


def test_isotropic_errors_are_as_bad_as_random_ones_and_aimed_ones_worse():
    """Errors along the difference of two unembeddings do more than random ones of the same length."""
    model = shelf.model("llama")
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(0, model.d_vocab, (40, 12), generator=draw).tolist()

    class Off(Standard):
        aimed: Any = None

        def decode(self, codes, x=None):
            assert x is not None
            error = (
                torch.randn(x.shape, generator=draw, dtype=x.dtype) if self.aimed is None else self.aimed.expand_as(x)
            )
            return x + 0.3 * x.norm(dim=1, keepdim=True) * error / error.norm(dim=1, keepdim=True)

    d = model.d_model
    weights = model.weights.folded()
    aimed = (weights.W_U[:, 3] - weights.W_U[:, 4]).double()
    several: dict[str, Any] = {}
    for name, direction in (("random", None), ("aimed", aimed)):
        several[name] = Off(d, 4, dtype=torch.float64, facts=Facts(site=f"resid_post.{model.n_layers - 1}"))
        several[name].aimed = direction
    with exact():
        table = replacement_measures(model, several, texts, n_random=4)
    assert float(table.kl_ratio[0]) == pytest.approx(1, abs=0.15)
    assert float(table.kl_ratio[1]) > 1.5


def test_random_errors_do_not_depend_on_batches():
    model = shelf.model("gpt2")
    one = TopK(model.d_model, 40, k=3, dtype=torch.float64, facts=Facts(site="resid_pre.1"))
    with exact():
        tables = [replacement_measures(model, one, TEXTS, batch_tokens=b, n_random=2) for b in (7, 100)]
    for name in tables[0]:
        np.testing.assert_allclose(tables[0][name], tables[1][name], atol=1e-9, err_msg=str(name))


def test_nothing_is_skipped_where_that_is_asked():
    model = shelf.model("llama")
    one = TopK(model.d_model, 40, k=3, dtype=torch.float64, facts=Facts(site="resid_post.0"))
    with exact():
        table = replacement_measures(model, one, TEXTS, skip_first=0, skip_special=False, n_random=0)
        ce, kl = by_hand(model, "resid_post", 0, lambda x: one(x).detach(), skip=0)
    assert float(table.ce[0]) == pytest.approx(ce, abs=1e-9) and float(table.kl[0]) == pytest.approx(kl, abs=1e-9)
    assert table.attrs["skipped"] == "nothing"


def test_what_cannot_be_spliced_is_refused():
    model = shelf.model("llama")
    d = model.d_model
    for site in ("", "resid_post", "nowhere.1", "resid_post.99", "logits"):
        with pytest.raises(CasebackError):
            replacement_measures(model, TopK(d, 9, k=1, facts=Facts(site=site)), TEXTS)
    with pytest.raises(ArgumentError, match="where it reads"):
        replacement_measures(model, TopK(d, 9, k=1), TEXTS)
    one = TopK(d + 1, 9, k=1, facts=Facts(site="resid_post.1"))
    with pytest.raises(TokensError, match=f"reads {d + 1} numbers"):
        replacement_measures(model, one, TEXTS)
    fits = TopK(d, 9, k=1, facts=Facts(site="resid_post.1"))
    with pytest.raises(TokensError, match="no token counts"):
        replacement_measures(model, fits, [[1, 2]])
    with pytest.raises(OutOfRange):
        replacement_measures(model, fits, TEXTS, skip_first=-1)
