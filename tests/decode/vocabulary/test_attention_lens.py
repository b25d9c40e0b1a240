"""PRIMER 4.3.4: with L = W_U a head's reading is its direct logit attribution; the written-out gradient is autograd's."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import fit_attention_lens, read_attention_lens
from caseback.decode.vocabulary.lenses.attention_lens import AttentionLens, _Heads
from caseback.decode.vocabulary.lenses.lens import fingerprint
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components import logit_attribution
from exact import exact

# grouped heads, post-norms with a cap, a logit scale, a bias of the head, a projection before it, parallel blocks
NAMES = ("gpt2", "llama", "gemma2", "cohere", "phi", "opt_projected", "gptj")


def unfitted(model, layer, rank):
    heads, d = model.anatomy.layers[layer].dims.n_heads, model.d_model
    rows = _Heads(model, layer).kl.rows
    if rank is None:
        return AttentionLens(layer, None, None, rows.T.expand(heads, -1, -1).clone(), fingerprint(model))
    down, up = torch.randn(heads, d, rank, dtype=torch.float64), torch.zeros(heads, rank, d, dtype=torch.float64)
    return AttentionLens(layer, down, up, None, fingerprint(model))


@pytest.mark.parametrize("name", ["gpt2", "llama", "cohere", "phi", "gptj"])
@pytest.mark.parametrize("rank", [None, 2])
def test_4_3_4_it_begins_as_direct_logit_attribution(name, rank):
    model, prompts = shelf.model(name), shelf.ids((6, 4), seed=1)
    with exact():
        found = read_attention_lens(model, model.tokens(prompts, padding="left"), unfitted(model, 1, rank), targets=5)
        shares = logit_attribution(model, prompts, cb.logit(5), by="component")
    for head in range(model.n_heads):
        expected = shares.sel(component=f"L1H{head}").values
        for row, prompt in enumerate(prompts):
            assert np.isclose(found["logit"].values[0, row, len(prompt) - 1, head, 0], expected[row], atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("max_logits", [2**24, 200])
def test_4_3_4_divergence_and_gradients_are_autograds(name, rank, max_logits):
    model = shelf.model(name)
    heads = _Heads(model, 1, max_logits)
    tokens = model.tokens(shelf.ids((5, 3), seed=2))
    lens = unfitted(model, 1, rank)
    noise = lambda x: (x + 0.1 * torch.randn_like(x)).requires_grad_()  # noqa: E731
    parameters = [noise(p) for p in (lens.down, lens.up, lens.weight) if p is not None]
    with exact():
        found, gradients = heads.gradients([tokens], parameters)
        run = model.run(tokens, read=heads.sites)
        writes = run["head_out", 1][tokens.mask]
        end = run["resid_post", model.n_layers - 1][tokens.mask]
        norm = model.anatomy.norms[model.anatomy.final_norm]
        n = norm.centre(writes) / norm.scale(end)[:, None] * norm.gamma
        w_u = heads.kl.rows.T
        maps = parameters[0] if rank is None else w_u + parameters[0] @ parameters[1] @ w_u
        z = torch.einsum("thd,hdv->tv", n, maps)
        z = z if norm.beta is None else z + norm.beta @ w_u
        z = z if heads.kl.bias is None else z + heads.kl.bias
        z = z * model.anatomy.logit_scale
        cap = model.anatomy.logit_softcap
        z = z if cap is None else cap * torch.tanh(z / cap)
        log_p = run.logits[tokens.mask].log_softmax(-1)
        expected = (log_p.exp() * (log_p - z.log_softmax(-1))).sum(-1).mean()
        wanted = torch.autograd.grad(expected, parameters)
    assert found == pytest.approx(float(expected.detach()), abs=1e-10)
    for gradient, own in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, own, atol=1e-10)


@pytest.mark.parametrize("rank", [None, 4])
def test_training_comes_nearer_to_the_model(rank):
    model = cb.load("meadow")
    texts = ["Mary went to the store.", "John saw the dog at the park.", "the cat and the dog"]
    lens = fit_attention_lens(model, texts, layer=2, rank=rank, steps=12, tokens_per_step=16, lr=1e-2)
    again = fit_attention_lens(model, texts, layer=2, rank=rank, steps=12, tokens_per_step=16, lr=1e-2)
    assert np.mean(lens.provenance["kl"][-3:]) < 0.8 * np.mean(lens.provenance["kl"][:2])
    assert lens.provenance == again.provenance
    found = read_attention_lens(model, texts[0], lens, pos=-1, k=2, max_logits=model.d_vocab)
    assert found["top_text"].shape == (1, 1, model.n_heads, 2) and found.layer.values.tolist() == ["2"]


@pytest.mark.parametrize("rank", [None, 2])
def test_some_heads_are_read_as_among_all(rank):
    model, prompts = shelf.model("llama"), shelf.ids((6, 4), seed=1)
    lens = unfitted(model, 1, rank)
    with exact():
        every = read_attention_lens(model, prompts, lens, targets=5)
        some = read_attention_lens(model, prompts, lens, targets=5, units=[2, 0])
    assert some["head"].values.tolist() == [2, 0]
    for name in ("logit", "kl", "top_prob", "top_id"):
        assert np.allclose(some[name], every[name].isel(head=[2, 0]), atol=1e-10, equal_nan=True)


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    for units in ([9], [-1], []):
        with pytest.raises(OutOfRange, match="4 heads"):
            read_attention_lens(model, [1, 2], unfitted(model, 1, 1), units=units)
    for wrong in ({"layer": 9}, {"layer": 0, "rank": 0}, {"layer": 0, "steps": 0}, {"layer": 0, "lr": 0.0}):
        with pytest.raises(OutOfRange):
            fit_attention_lens(model, [[1, 2, 3]], **wrong)
    with pytest.raises(CasebackError, match="empty"):
        fit_attention_lens(model, [], layer=0)
    with pytest.raises(CasebackError, match="not fitted for"):
        read_attention_lens(model, [1, 2], unfitted(shelf.model("llama"), 1, 1))
