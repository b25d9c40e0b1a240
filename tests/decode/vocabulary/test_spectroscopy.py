"""PRIMER 4.3.13: bands sum to the logits, cover the stream once, and filters suppress what they name."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import Spectrum, band_logits, spectral_coverage
from caseback.errors import CasebackError
from exact import exact

# centring norms, soft-caps, logit scales, head biases, projections behind the stream
NAMES = ("gpt2", "llama", "gemma2", "gpt_neox", "gptj", "mixtral", "cohere", "granite", "opt_projected")


@pytest.mark.parametrize("bands", [1, 5, None])
@pytest.mark.parametrize("name", NAMES)
def test_4_3_13_the_bands_sum_to_the_logits(name, bands):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        for side in ("left", "right"):
            tokens = model.tokens(prompts, padding=side)
            found = band_logits(model, tokens, list(range(model.d_vocab)), bands=bands or model.d_model)
            assert found.attrs["gap"] < 1e-9
            total = torch.from_numpy((found.sum("rank") + found["bias"]).values)
            cap = model.anatomy.logit_softcap
            total = total if cap is None else torch.tanh(total / cap) * cap
            for b, prompt in enumerate(prompts):
                told = model.hf(torch.tensor([prompt])).logits[0, -1].detach()
                assert torch.allclose(total[b], told, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_4_3_13_the_directions_are_the_unembeddings(name):
    model = shelf.model(name)
    spectrum = Spectrum(model, 6)
    table = model.weights.folded().W_U
    u, s, _ = torch.linalg.svd(table)
    assert torch.allclose(spectrum.S[: len(s)], s, atol=1e-9)
    assert torch.allclose(spectrum.U.mT @ spectrum.U, torch.eye(model.d_model, dtype=s.dtype), atol=1e-10)
    assert torch.allclose((spectrum.U.mT @ table).norm(dim=1), spectrum.S, atol=1e-9)
    assert sum(len(r) for r in spectrum.ranges) == model.d_model
    assert max(len(r) for r in spectrum.ranges) - min(len(r) for r in spectrum.ranges) <= 1


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "mlp_out", "head_out"])
def test_4_3_13_coverage_is_that_of_each_vector_and_sums_to_one(site):
    model, prompts = shelf.model("gemma2"), shelf.ids((6, 4), seed=1)
    with exact():
        found = spectral_coverage(model, prompts, bands=5, site=site)
        run = model.run(prompts, read=[site])
        spectrum = Spectrum(model, 5)
    assert np.isnan(found.isel(batch=1, pos=5)).all()
    x = run[site, 1][0, 3]
    for b in range(5):
        basis = spectrum.basis(b)
        share = (x @ basis.mT @ basis).pow(2).sum(-1) / x.pow(2).sum(-1)
        assert np.allclose(found.sel(layer=1, rank=b).isel(batch=0, pos=3), share, atol=1e-10)
    assert np.allclose(found.isel(batch=0).sum("rank"), 1)
    one = spectral_coverage(model, prompts, bands=5, site=site, pos=-1)
    assert np.allclose(one.isel(batch=1), found.isel(batch=1, pos=3), atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_4_3_13_a_filter_removes_a_bands_share_of_the_logits(name):
    model, prompts = shelf.model(name), shelf.ids((5,))
    spectrum, last = Spectrum(model, 4), model.n_layers - 1
    with exact():
        plain = band_logits(model, prompts, [1, 2], bands=4)
        cut = spectrum.filter([1, -1], layer=last)
        filtered = band_logits(model, prompts, [1, 2], bands=4, edits=cut)
        kept = band_logits(model, prompts, [1, 2], bands=4, edits=spectrum.filter([1, -1], layer=last, keep=True))
        spared = model.run(prompts, edits=spectrum.filter([0], layer=last, pos=slice(1, None))).logits
        whole = model.run(prompts).logits
    assert np.abs(filtered.isel(rank=[1, 3])).max() < 1e-10 < np.abs(filtered.isel(rank=[0, 2])).max()
    assert np.abs(kept.isel(rank=[0, 2])).max() < 1e-10
    # what is left keeps its proportions: the final norm alone rescales it
    ratio = filtered.isel(rank=[0, 2]).values / plain.isel(rank=[0, 2]).values
    assert np.allclose(ratio, ratio.flat[0], atol=1e-8)
    assert torch.allclose(spared[0, 0], whole[0, 0], atol=1e-10) and not torch.allclose(spared[0, 1], whole[0, 1])


def test_4_3_13_a_silent_tail_barely_changes_the_logits():
    """Of an unembedding whose last directions are all but 0, the tail's removal shifts no logit by more than those."""
    import zoo

    hf = zoo.tiny("llama")
    hf.config.tie_word_embeddings = False
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(hf.lm_head.weight, full_matrices=False)
        s[-8:] = 1e-9
        hf.lm_head.weight.copy_((u * s) @ vh)
        hf.model.norm.weight.fill_(1.0)
    model, prompts = cb.load(hf), shelf.ids((6,))
    spectrum = Spectrum(model, model.d_model // 8)
    with exact():
        resid = model.run(prompts, read=[("resid_post", -1)])["resid_post", -1]
        tail = spectrum.basis(-1)
        bare = (resid - resid @ tail.mT @ tail) @ model.weights.W_U - resid @ model.weights.W_U
        first = spectrum.basis(0)
        loud = resid @ first.mT @ first @ model.weights.W_U
        parts = band_logits(model, prompts, list(range(model.d_vocab)), bands=len(spectrum))
    assert bare.abs().max() < 1e-7 * loud.abs().max()
    assert np.abs(parts.isel(rank=-1)).max() < 1e-7 * np.abs(parts.isel(rank=0)).max()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: Spectrum(m, 0), "bands=0"),
        (lambda m: Spectrum(m, 10**4), "bands=10000"),
        (lambda m: Spectrum(m, 4).basis(4), r"bands \[4\]"),
        (lambda m: Spectrum(m, 4).basis([]), r"bands \[\]"),
        (lambda m: Spectrum(m, 4).filter(0, site="z"), "not in the stream"),
        (lambda m: Spectrum(m, 4).coverage(torch.zeros(3)), "width 3"),
        (lambda m: spectral_coverage(m, [[1, 2]], site="pattern", bands=2), "not in the stream"),
        (lambda m: band_logits(m, [[1, 2]], [], bands=2), "no target"),
        (lambda m: band_logits(m, [[1, 2]], [10**6], bands=2), "1000000"),
    ],
)
def test_bad_input_is_told(call, said):
    with pytest.raises(CasebackError, match=said):
        call(shelf.model("gpt2"))
