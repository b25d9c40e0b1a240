"""Privileged bases (PRIMER 2.10): kurtosis tells a basis that means something from one that does not."""

import pytest
import torch

import shelf
from caseback.errors import CasebackError
from caseback.model.algebra.bases import basis_kurtosis, kurtosis, random_rotation
from exact import exact


def test_2_10_kurtosis_of_known_vectors():
    assert float(kurtosis(torch.randn(200_000))) == pytest.approx(3.0, rel=0.05)
    spike = torch.zeros(50)
    spike[3] = 1.0
    assert float(kurtosis(spike)) == pytest.approx((49**4 + 49) * 50 / (49**2 + 49) ** 2)
    assert kurtosis(torch.randn(3, 4, 10)).shape == (3, 4)


def test_2_10_a_rotation_keeps_lengths_and_takes_a_basis_away():
    turn = random_rotation(64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(turn @ turn.T, torch.eye(64, dtype=torch.float64))
    sparse = torch.zeros(500, 64, dtype=torch.float64)
    sparse[torch.arange(500), torch.randint(64, (500,))] = 1.0
    assert float(kurtosis(sparse).mean()) > 50 and float(kurtosis(sparse @ turn).mean()) == pytest.approx(3.0, rel=0.2)


def test_2_10_neurons_have_a_basis_and_a_random_stream_has_none():
    model = shelf.model("gpt2")
    prompts = shelf.ids((12, 9, 12, 7))
    stream, neurons = basis_kurtosis(model, prompts), basis_kurtosis(model, prompts, "mlp_post", rotations=20)
    assert stream.dims == ("layer", "variant") and stream.shape == (3, 2)
    excess = neurons.sel(variant="own") - neurons.sel(variant="rotated")
    assert bool((excess > 5 * neurons.attrs["rotated_std"]).all())
    apart = stream.sel(variant="own") - stream.sel(variant="rotated")
    assert float(abs(apart).max()) < float(excess.min())


def test_2_10_padding_does_not_count_and_a_plant_is_seen():
    model = shelf.zoo.tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 5] = 60.0
    planted = shelf.cb.load(model)
    prompts = shelf.ids((9, 4))
    with exact():
        together = basis_kurtosis(planted, planted.tokens(prompts, padding="left"))
        singly = [basis_kurtosis(planted, [p]) for p in prompts]
    pooled = (9 * singly[0] + 4 * singly[1]) / 13
    torch.testing.assert_close(torch.tensor(together.values), torch.tensor(pooled.values), rtol=1e-5, atol=1e-5)
    assert float(together.sel(layer=0, variant="own")) > 10 > float(together.sel(layer=0, variant="rotated"))


def test_errors_say_what_is_wrong():
    with pytest.raises(CasebackError, match="one vector per position"):
        basis_kurtosis(shelf.model("gpt2"), shelf.ids((5,)), "pattern")
