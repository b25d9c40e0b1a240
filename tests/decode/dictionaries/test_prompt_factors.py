"""Nonnegative factors of a prompt: planted ones recovered, neurons and words where they belong."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

import shelf
from caseback.decode.dictionaries import neuron_factors
from caseback.decode.dictionaries.features.prompt_factors import _factors
from caseback.errors import ArgumentError, CasebackError, OutOfRange, SiteAbsent
from caseback.views.text.factors import print_factors
from exact import exact


def test_planted_factors_are_recovered():
    random = np.random.default_rng(0)
    w = random.random((30, 3)) * (random.random((30, 3)) < 0.5) * [3, 2, 1]
    h = random.random((3, 50)) * (random.random((3, 50)) < 0.3)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    found, rows = _factors(w @ h, 3, 2000, 0)
    order = np.argsort(-np.linalg.norm(w, axis=0))
    np.testing.assert_allclose((rows * h[order]).sum(1), 1, atol=1e-3)
    np.testing.assert_allclose(found, w[:, order], atol=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("part", ["positive", "absolute"])
def test_factors_are_of_the_neurons_of_the_prompt(name, part):
    model = shelf.model(name)
    ids = shelf.ids((12,))
    with exact():
        factors = neuron_factors(model, ids, 4, layers=[2, 0], part=part, steps=300)
        run = model.run(ids, read=["mlp_post"])
    a = torch.cat([run["mlp_post", layer][0] for layer in (2, 0)], -1).detach().numpy()
    a = (np.maximum(a, 0) if part == "positive" else np.abs(a))[1:]
    w, h = factors.activation.values.T[1:], factors.weight.values
    assert (w >= 0).all() and (h >= 0).all() and (factors.activation[:, 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(h, axis=1), 1)
    explained = 1 - ((a - w @ h) ** 2).sum() / (a**2).sum()
    np.testing.assert_allclose(factors.attrs["explained"], explained)
    assert explained > 0.3 and (np.diff(np.linalg.norm(w, axis=0)) <= 1e-12).all()
    assert factors.neuron_layer.values.tolist() == [2] * (a.shape[1] // 2) + [0] * (a.shape[1] // 2)
    first = int(h[0].argmax())
    assert (
        factors.top_neuron.values[0, 0] == f"L{factors.neuron_layer.values[first]}N{factors.neuron_index.values[first]}"
    )


def test_one_neuron_alone_writes_its_own_words():
    model = shelf.model("llama")
    ids = shelf.ids((12,))
    factors = neuron_factors(model, ids, 1, layers=[1], top=3)
    folded = model.weights.folded()
    logits = torch.from_numpy(factors.weight.values[0]) @ folded.W_out[1].double() @ folded.W_U.double()
    logits = (logits - logits.mean()).detach()
    assert factors.up_token.values[0].tolist() == [model.token_text(i) for i in logits.topk(3).indices.tolist()]
    np.testing.assert_allclose(factors.up.values[0], logits.topk(3).values.numpy(), rtol=1e-6)


def test_a_view_names_every_factor():
    out = io.StringIO()
    factors = neuron_factors(shelf.model("llama"), shelf.ids((12,)), 3)
    print_factors(factors, Console(file=out, width=200))
    assert out.getvalue().count("raises") == 3 and "3 factors explain" in out.getvalue()
    with pytest.raises(CasebackError):
        print_factors(factors.drop_vars("share"))


def test_what_has_no_factors_is_refused():
    model = shelf.model("llama")
    with pytest.raises(ArgumentError, match="2 prompts"):
        neuron_factors(model, shelf.ids((5, 6)))
    with pytest.raises(OutOfRange, match="8 factors of 4 tokens"):
        neuron_factors(model, shelf.ids((5,)))
    with pytest.raises(OutOfRange, match="each once"):
        neuron_factors(model, shelf.ids((12,)), layers=[1, 1])
    with pytest.raises((SiteAbsent, CasebackError)):
        neuron_factors(shelf.model("mixtral"), shelf.ids((12,)))
