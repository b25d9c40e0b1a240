"""What features write and which are active: planted rows, padding, and what is refused."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import Facts, TopK, feature_words, features_on, nearest_features
from caseback.errors import LoadError, OutOfRange
from exact import exact


def _one(model: cb.Model, site: str = "resid_post.1", **facts) -> TopK:
    return TopK(model.d_model, 2 * model.d_model, k=5, facts=Facts(site=site, **facts), dtype=torch.float64)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_row_along_an_unembedding_raises_its_token(name):
    model = shelf.model(name)
    one = _one(model)
    table = model.weights.folded().W_U.double()
    one.W_dec.data[3] = torch.linalg.lstsq(table.T, torch.eye(table.shape[1], dtype=torch.float64)[11]).solution
    read = feature_words(model, one, [3, 4], top=4)
    assert read["up_token"].values[0, 0] == model.token_text(11)
    logits = one.W_dec.detach()[4] @ table
    logits -= logits.mean()
    np.testing.assert_allclose(read["up"].values[1], logits.topk(4).values, rtol=1e-6)
    np.testing.assert_allclose(read["down"].values[1], logits.topk(4, largest=False).values, rtol=1e-6)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_prompts_features_are_its_own_whatever_the_padding(padding):
    model = shelf.model("llama")
    one = _one(model)
    with exact():
        together = features_on(model, one, model.tokens(shelf.ids((9, 6)), padding=padding))
        alone = features_on(model, one, [shelf.ids((9, 6))[1]])
        states = model.run([shelf.ids((9, 6))[1]], read=["resid_post"])["resid_post", 1][0]
    np.testing.assert_array_equal(together["feature"].values[1, :6], alone["feature"].values[0])
    np.testing.assert_allclose(together["activation"].values[1, :6], alone["activation"].values[0], rtol=1e-9)
    assert (together["active"].values[1, 6:] == 0).all() and (together["feature"].values[1, 6:] == -1).all()
    codes = one.encode(states).detach()
    assert (alone["active"].values[0] == (codes != 0).sum(-1).numpy()).all()
    np.testing.assert_allclose(alone["activation"].values[0, :, 0], codes.max(-1).values, rtol=1e-9)


def test_neighbors_are_the_largest_cosines_of_others():
    one = TopK(6, 30, k=2, dtype=torch.float64)
    one.W_dec.data *= torch.linspace(0.1, 3, 30, dtype=torch.float64)[:, None]
    cosines, near = nearest_features(one, top=4)
    rows = torch.nn.functional.normalize(one.W_dec.detach(), dim=1)
    table = (rows @ rows.T).fill_diagonal_(-2)
    torch.testing.assert_close(cosines, table.topk(4).values)
    assert not bool((near == torch.arange(30)[:, None]).any())


def test_what_has_no_words_is_refused():
    model = shelf.model("llama")
    with pytest.raises(LoadError, match="and the stream has 32"):
        feature_words(model, TopK(model.d_model + 1, 8, k=2))
    with pytest.raises(OutOfRange, match="feature 99: there are 8, 0 to 7"):
        nearest_features(TopK(4, 8, k=2), [99])
