"""Causal bases (with PRIMER 4.3.3): a planted direction is found, tops are tops, and influence is what it says."""

import numpy as np
import pytest
import torch

import shelf
from caseback.decode.vocabulary import causal_basis
from caseback.decode.vocabulary.lenses.causal_basis import _Influence
from caseback.decode.vocabulary.lenses.lens import Lens, fingerprint, streams
from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.verify import unembed
from exact import exact

NAMES = ("gpt2", "llama", "gemma2", "gptj", "cohere")


def a_lens(model, weight, bias=None, ahead=0):
    bias = torch.zeros(model.d_model, dtype=torch.float64) if bias is None else bias
    return Lens("tuned", (1,), weight[None], bias[None], model.n_layers, ahead, fingerprint(model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_logits", [2**24, 200])
def test_influence_is_the_divergence_that_replacing_the_direction_makes(name, max_logits):
    model = shelf.model(name)
    generator = torch.Generator().manual_seed(0)
    weight = torch.eye(model.d_model) + 0.3 * torch.randn(model.d_model, model.d_model, generator=generator).double()
    lens = a_lens(model, weight, torch.randn(model.d_model, generator=generator).double())
    with exact():
        h = streams(model, shelf.ids((6, 6), seed=1), [1])[1].flatten(0, 1)
        influence = _Influence(model, h, lens, 1, max_logits)
        v = torch.randn(model.d_model, generator=generator).double()
        v = (v / v.norm()).requires_grad_()
        without = h - ((h - h.mean(0)) @ v)[:, None] * v
        p, q = (unembed(model.anatomy, x @ weight + lens.bias[0]).log_softmax(-1) for x in (h, without))
        expected = (p.exp() * (p - q)).sum(-1).mean()
        value, gradient = influence(v.detach())
    assert value == pytest.approx(float(expected.detach()), abs=1e-10)
    assert torch.allclose(gradient, torch.autograd.grad(expected, v)[0], atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_of_a_lens_that_sees_a_plane_only_directions_with_a_part_in_it_matter(name):
    model = shelf.model(name)
    d = model.d_model
    generator = torch.Generator().manual_seed(2)
    seen = torch.linalg.qr(torch.randn(d, 2, generator=generator, dtype=torch.float64))[0]
    lens = a_lens(model, seen @ torch.randn(2, d, generator=generator, dtype=torch.float64))
    prompts = shelf.ids((8,) * 4, seed=3)
    with exact():
        found = causal_basis(model, prompts, lens, row=1, directions=3, starts=4, iterations=100)
        influence = _Influence(model, streams(model, prompts, [1])[1].flatten(0, 1), lens, 1, 2**24)
        unseen = torch.randn(d, generator=generator, dtype=torch.float64)
        unseen = unseen - seen @ (seen.T @ unseen)
        blind = influence(unseen / unseen.norm())[0]
        angles = torch.linspace(0, torch.pi, 60, dtype=torch.float64)
        inside = [influence(seen[:, 0] * a.cos() + seen[:, 1] * a.sin())[0] for a in angles]
        # the direction of largest variance, which is seen in part
        _, axes = torch.linalg.eigh(influence.centred.T @ influence.centred)
        widest = influence(axes[:, -1])[0]
    basis = torch.from_numpy(found["basis"].values)
    assert torch.allclose(basis @ basis.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
    first, second, third = found["influence"].values
    assert blind < 1e-12 and first > 0.01
    # a direction half outside may move the state more, so the best is at least as good as all of the plane
    assert first > max(inside) - 1e-9 and first > widest - 1e-9
    assert first >= second >= third and first > found.attrs["random_influence"]


def test_the_first_direction_is_a_top_and_beats_all_tried():
    model = shelf.model("llama")
    with exact():
        found = causal_basis(model, shelf.ids((6,) * 3, seed=4), row=2, directions=1, starts=2, iterations=200)
        h = streams(model, shelf.ids((6,) * 3, seed=4), [2])[2].flatten(0, 1)
        influence = _Influence(model, h, None, 2, 2**24)
        v = torch.from_numpy(found["basis"].values[0])
        value, gradient = influence(v)
        others = [influence(x / x.norm())[0] for x in torch.randn(50, model.d_model, dtype=torch.float64)]
    assert np.isclose(value, found["influence"][0]) and value > max(others)
    assert float((gradient - (gradient @ v) * v).norm()) < 1e-3 * value
    assert found.attrs["tokens"] == 18 and found.attrs["entry"] == "4.3.3" and found.to_netcdf() is not None


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    eye = torch.eye(model.d_model, dtype=torch.float64)
    for wrong in ({"row": 9}, {"row": 1, "directions": 0}, {"row": 1, "starts": 0}, {"row": 1, "iterations": 0}):
        with pytest.raises(OutOfRange):
            causal_basis(model, [[1, 2]], **wrong)
    for lens, row in ((a_lens(model, eye), 2), (a_lens(model, eye, ahead=1), 1)):
        with pytest.raises(OutOfRange, match="expected one at hand"):
            causal_basis(model, [[1, 2]], lens, row=row)
    with pytest.raises(CasebackError, match="empty"):
        causal_basis(model, [], row=1)
    with pytest.raises(CasebackError, match="fit one"):
        causal_basis(shelf.model("llama"), [[1, 2]], a_lens(model, eye), row=1)
