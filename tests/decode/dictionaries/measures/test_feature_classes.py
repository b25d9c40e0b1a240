"""Planted decoder rows are of their kind, whatever is folded, and random directions are of none."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew
from transformers import LlamaConfig

import caseback as cb
import shelf
import zoo
from caseback.decode.dictionaries import Standard
from caseback.decode.dictionaries.measures import feature_classes
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import override

VOCAB = 400


@pytest.fixture(scope="module")
def wide() -> cb.Model:
    """As many dimensions as tokens, so that any logits can be planted."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=VOCAB, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=16,
    )  # fmt: skip
    return cb.load(zoo.from_config(config, torch.float64))


def planted(model: cb.Model) -> torch.Tensor:
    """Rows whose logits are noise and a few tokens up, down, both ways, and two halves apart."""
    draw = torch.Generator().manual_seed(0)
    logits = 0.3 * torch.randn(5, VOCAB, generator=draw, dtype=torch.float64)
    logits[0, :5] += 8
    logits[1, 20:25] -= 8
    logits[2, :5] += 8
    logits[2, 20:25] -= 8
    logits[3] += torch.where(torch.arange(VOCAB) < VOCAB // 2, 4, -4)
    return logits @ torch.linalg.inv(model.weights.folded().W_U.double())


def test_planted_rows_are_of_their_kind(wide):
    table = feature_classes(wide, planted(wide))
    assert table.kind.values.tolist() == ["promoting", "suppressing", "partition", "partition", "other"]
    assert table.positive_mass[0] > 0.5 and table.negative_mass[0] == 0
    assert table.negative_mass[1] > 0.5 and table.positive_mass[1] == 0
    assert table.skew[0] > 5 and table.skew[1] < -5 and abs(table.skew[2]) < 1
    assert table.attrs["share_partition"] == 0.4 and table.attrs["random_other"] > 0.95


def test_the_scale_of_a_row_is_no_part_of_its_kind(wide):
    rows = planted(wide)
    table, other = feature_classes(wide, rows), feature_classes(wide, 7 * rows)
    assert (table.kind == other.kind).all()
    np.testing.assert_allclose(other["std"], 7 * table["std"])
    np.testing.assert_allclose(other.kurtosis, table.kurtosis)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj", "mixtral"])
@pytest.mark.parametrize("folded", [True, False])
def test_moments_are_scipys(name, folded):
    model = shelf.model(name)
    one = Standard(model.d_model, 17, dtype=torch.float64, seed=2)
    with override(weight_products=100):
        table = feature_classes(model, one, folded=folded)
    W_U = (model.weights.folded() if folded else model.weights).W_U.double()
    logits = (one.W_dec.detach() @ W_U).detach().numpy()
    np.testing.assert_allclose(table.skew, skew(logits, axis=1), atol=1e-9)
    np.testing.assert_allclose(table.kurtosis, kurtosis(logits, axis=1, fisher=False), atol=1e-9)
    np.testing.assert_allclose(table["std"], logits.std(1), atol=1e-9)
    z = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    np.testing.assert_allclose(table.positive_mass, np.where(z > 3, z**2, 0).mean(1), atol=1e-9)


def test_a_row_of_zeros_is_of_no_kind():
    model = shelf.model("llama")
    assert feature_classes(model, torch.zeros(1, model.d_model), n_random=0).kind.item() == "other"


def test_bad_rows_are_refused():
    model = shelf.model("llama")
    for rows in (torch.zeros(3, 5), torch.zeros(0, model.d_model), torch.full((2, model.d_model), float("nan"))):
        with pytest.raises(CasebackError):
            feature_classes(model, rows)
    with pytest.raises(OutOfRange):
        feature_classes(model, torch.ones(1, model.d_model), two_humps=7)
