"""PRIMER 4.3.12: the factors are autograd's weight gradients, of rank at most the tokens; the shift, by edit."""

import copy

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import backward_lens, forward_shift, weight_gradient
from caseback.errors import CasebackError, SiteAbsent, TokensError
from caseback.model.anatomy.dense import weight_matrix
from exact import exact

NAMES = ("gpt2", "llama", "gemma2", "gpt_neox", "gptj", "olmo2", "granite")


def by_autograd(model, prompt, target, module):
    """The gradient of log p(target) at a module's weight, formed whole, in the orientation x @ W."""
    hf = copy.deepcopy(model.hf).requires_grad_(True)
    copied = dict(hf.named_modules())[next(n for n, m in model.hf.named_modules() if m is module)]
    hf(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[target].backward()
    grad = copied.weight.grad
    return grad if weight_matrix(module).shape == module.weight.shape and "Conv1D" in type(module).__name__ else grad.T


@pytest.mark.parametrize("matrix", ["in", "gate", "out"])
@pytest.mark.parametrize("name", NAMES)
def test_4_3_12_the_factors_are_the_gradient_and_its_rank_is_the_tokens_at_most(name, matrix):
    model, prompts, layer = shelf.model(name), shelf.ids((4, 6), seed=2), 0
    p = model.anatomy.layers[layer]
    module = {"in": p.w_in, "gate": p.w_gate, "out": p.w_out}[matrix]
    if module is None:
        with pytest.raises((SiteAbsent, CasebackError)):
            weight_gradient(model, prompts, cb.log_prob(3), matrix, layer)
        return
    with exact():
        for side in ("left", "right"):
            tokens = model.tokens(prompts, padding=side)
            found = weight_gradient(model, tokens, cb.log_prob(3), matrix, layer)
            for b, prompt in enumerate(prompts):
                told = by_autograd(model, prompt, 3, module)
                assert torch.allclose(found[b].dense(), told, atol=1e-9)
                assert told.abs().max() > 1e-4
                assert int(found[b].rank()) == int(torch.linalg.matrix_rank(told)) <= len(prompt)


def norms_of_outer_products(gradient):
    return torch.stack([torch.outer(x, d).norm() for x, d in zip(gradient.left.mT, gradient.right, strict=True)])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_4_3_12_words_are_those_of_the_factors(name):
    model, prompts = shelf.model(name), shelf.ids((4, 5), seed=1)
    metric, weights = cb.log_prob(2), model.weights.folded()
    with exact():
        lens = backward_lens(model, prompts, metric, k=3)
        last = backward_lens(model, prompts, metric, k=3, pos=-1, layers=[1])
        for layer in range(model.n_layers):
            read = weight_gradient(model, prompts, metric, "in", layer)
            write = weight_gradient(model, prompts, metric, "out", layer)
            for b, n in enumerate((4, 5)):
                here = lens.sel(layer=layer).isel(batch=b, pos=slice(0, n))
                for vectors, what in ((read.left[b].mT, "imprint"), (write.right[b], "shift")):
                    best = (vectors[:n] @ weights.W_U).topk(3)
                    assert np.allclose(here[f"{what}_top_value"], best.values, atol=1e-9)
                    live = (best.values.abs() > 1e-9).all(-1).numpy()
                    assert (here[f"{what}_top_id"].values[live] == best.indices.numpy()[live]).all()
                shares = norms_of_outer_products(read[b])
                assert np.allclose(here["imprint_norm"], shares[:n], atol=1e-9)
                shares = norms_of_outer_products(write[b])
                assert np.allclose(here["shift_norm"], shares[:n], atol=1e-9)
                assert int(here["rank_out"]) == int(write[b].rank()) <= int(here["length"])
    assert (
        last["shift_top_id"].sel(layer=1).isel(batch=0) == lens["shift_top_id"].sel(layer=1).isel(batch=0, pos=3)
    ).all()


def test_4_3_12_the_last_layers_shift_names_the_target():
    """Behind the last layer the gradient of log p(t) is W_U (1_t - p) through the norm: t is what it raises."""
    model, prompts = shelf.model("gpt2"), shelf.ids((5, 7, 6), seed=4)
    lens = backward_lens(model, prompts, cb.log_prob([3, 9, 30]), pos=-1, k=1)
    assert lens["shift_top_id"].isel(layer=-1, k=0).values.tolist() == [3, 9, 30]


def test_4_3_12_of_the_last_layer_only_the_position_that_is_measured_counts():
    model, prompts = shelf.model("llama"), shelf.ids((5,))
    lens = backward_lens(model, prompts, cb.log_prob(3))
    assert (lens["shift_norm"].isel(layer=-1, batch=0).values[:-1] == 0).all()
    assert lens["rank_out"].isel(layer=-1).values.tolist() == [1]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_4_3_12_the_forward_shift_is_the_model_with_its_weight_updated(name):
    model, prompt, other = shelf.model(name), shelf.ids((5,), seed=1), shelf.ids((7, 3), seed=2)
    layer, target, strength = 1, 4, 2.5
    with exact():
        key = model.run(prompt, read=[("mlp_post", layer)])["mlp_post", layer][0, -1]
        weight = model.weights.W_out[layer]
        e = model.weights.folded().W_U[:, target]
        update = strength * (key @ weight).norm() * torch.outer(key, e / e.norm()) / key.pow(2).sum()
        hf = copy.deepcopy(model.hf)
        changed = cb.load(hf)
        with torch.no_grad():
            changed.weights.W_out[layer].add_(update)
        shift = forward_shift(model, prompt, target, layer=layer, strength=strength)
        for prompts in (prompt, other):
            tokens = model.tokens(prompts)
            told = changed.run(tokens).logits[tokens.mask]
            assert torch.allclose(model.run(tokens, edits=shift).logits[tokens.mask], told, atol=1e-8)
        metric = cb.logit(target)
        assert float(metric(model.run(prompt, edits=shift))) > float(metric(model.run(prompt)))


@pytest.mark.parametrize(
    ("name", "error", "said", "call"),
    [
        ("mixtral", SiteAbsent, "mixture of experts", lambda m: backward_lens(m, [[1, 2]], cb.logit(1))),
        ("mixtral", SiteAbsent, "mixture of experts", lambda m: forward_shift(m, [[1, 2]], 1, layer=0)),
        ("gpt2", CasebackError, "backward lens", lambda m: weight_gradient(m, [[1, 2]], cb.logit(1), "q", 0)),
        ("gpt2", CasebackError, "99", lambda m: backward_lens(m, [[1, 2]], cb.logit(1), layers=[99])),
        ("gpt2", CasebackError, "position", lambda m: backward_lens(m, [[1, 2]], cb.logit(1), pos=9)),
        ("gpt2", TokensError, "2 prompts", lambda m: forward_shift(m, [[1, 2], [3, 4]], 1, layer=0)),
        ("gpt2", CasebackError, "at least 1", lambda m: backward_lens(m, [[1, 2]], cb.logit(1), k=0)),
    ],
)
def test_bad_input_is_told(name, error, said, call):
    with pytest.raises(error, match=said):
        call(shelf.model(name))
