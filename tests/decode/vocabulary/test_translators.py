"""PRIMER 4.3.2, 4.3.5: exact for affine maps, the identity for l = l', and what a periodic text holds of the future."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import fit_future_lens, fit_translators, logit_lens, read_lens
from caseback.decode.vocabulary.lenses.lens import streams
from caseback.decode.vocabulary.lenses.translators import MomentSums
from caseback.errors import CasebackError, OutOfRange


def test_4_3_2_an_affine_map_is_found_exactly():
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((50, 6), (6, 6), (6,)))
    sums = MomentSums(6)
    for part in x.split(17):
        sums.add(part, part @ w + b)
    weight, bias, explained = sums.solve(bias=True, ridge=0.0)
    assert torch.allclose(weight, w, atol=1e-9) and torch.allclose(bias, b, atol=1e-9)
    assert abs(explained - 1) < 1e-9
    weight, bias, _ = sums.solve(bias=False, ridge=0.0)
    assert not bias.any() and torch.allclose(weight, torch.linalg.lstsq(x, x @ w + b).solution, atol=1e-9)


def test_4_3_2_from_a_depth_to_itself_it_is_the_identity():
    model = shelf.model("llama")
    lens = fit_translators(model, shelf.ids((9,) * 12, seed=1), rows=[1], to=1, ridge=0.0)
    assert torch.allclose(lens.weight[0], torch.eye(model.d_model, dtype=lens.weight.dtype), atol=1e-6)
    assert lens.bias.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox"])
def test_4_3_2_it_is_least_squares_whatever_the_batch_and_padding(name):
    model, prompts = shelf.model(name), shelf.ids((9, 7, 8) * 6, seed=1)
    lens = fit_translators(model, prompts, rows=[1], batch=4, ridge=0.0)
    one = fit_translators(model, prompts, rows=[1], batch=1, ridge=0.0)
    assert torch.allclose(lens.weight, one.weight, atol=1e-6)
    at = [streams(model, [p], [1, model.n_layers]) for p in prompts]
    x, y = (torch.cat([a[row][0] for a in at]) for row in (1, model.n_layers))
    x = torch.cat([x, x.new_ones(len(x), 1)], -1)
    expected = torch.linalg.lstsq(x, y).solution
    assert torch.allclose(lens.weight[0], expected[:-1], atol=1e-5)
    assert lens.provenance["tokens"] == sum(map(len, prompts))


def test_4_3_5_a_periodic_text_is_read_ahead():
    model = cb.load("meadow")
    days = " Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    text = [" ".join((days * 3)[i : i + 12]) for i in range(7)]
    lens = fit_future_lens(model, text, ahead=2, ridge=1e-4)
    read = read_lens(model, text[0], lens)
    ids = model.tokens(text[0]).ids[0]
    # the reading at t is of the model's prediction at t + 2; one day alone does not tell that days will follow
    foretold = read["top_id"].sel(layer=str(model.n_layers - 1)).isel(batch=0, k=0).values[2:]
    assert (foretold == model.run(text[0]).logits[0, 4:].argmax(-1).numpy()).mean() > 0.8
    assert read.sizes["pos"] == len(ids) - 2
    assert np.isnan(read["surprise"].values[0, 0, -1]) and not np.isnan(read["surprise"].values[0, 0, :-1]).any()


def test_a_translator_to_the_end_is_compared_with_the_model():
    model = cb.load("meadow")
    text = ["Mary and John went to the store.", "The cat saw the dog at the park."]
    lens = fit_translators(model, text)
    read, plain = read_lens(model, text[0], lens), logit_lens(model, text[0])
    assert read.layer.values.tolist() == plain.layer.values.tolist()
    assert float(read["kl"].isel(layer=0).mean()) < float(plain["kl"].isel(layer=0).mean())


def test_what_cannot_be_fitted_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(CasebackError, match="empty"):
        fit_translators(model, [])
    with pytest.raises(OutOfRange, match="none later"):
        fit_translators(model, [[1, 2]], rows=[2], to=1)
    with pytest.raises(OutOfRange, match="at least 1"):
        fit_future_lens(model, [[1, 2]], ahead=0)
    with pytest.raises(OutOfRange, match="context"):
        fit_translators(model, [[1, 2]], length=10**6)
    with pytest.raises(CasebackError, match="no tokenizer"):
        fit_translators(model, ["some text"])
    with pytest.raises(CasebackError, match="in a list"):
        fit_translators(cb.load("meadow"), "some text")
