"""Absorption seen with probes: a dictionary that absorbs by construction, a clean one, and a count with loops."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import Facts, Standard, TopK
from caseback.decode.dictionaries.measures import absorption, first_letter_absorption
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError

CLASSES, WORDS, COPIES = 3, 20, 12
D = CLASSES + WORDS


def states() -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """A direction of a class and one of a word, in all combinations."""
    pair = torch.arange(CLASSES * WORDS).repeat(COPIES)
    of, word = pair // WORDS, pair % WORDS
    eye = torch.eye(D, dtype=torch.float64)
    x = eye[of] + eye[CLASSES + word] + 0.01 * torch.randn(len(pair), D, generator=torch.Generator().manual_seed(0))
    return x, ["abc"[c] for c in of.tolist()], word


def dictionary(absorbed: int) -> Standard:
    """A feature a class and a word; of the first words, one of their own with each class writes both parts."""
    one = Standard(D, D + CLASSES * absorbed, dtype=torch.float64)
    eye = torch.eye(D, dtype=torch.float64)
    reads, bias = [eye.clone()], [torch.full((D,), -0.1, dtype=torch.float64)]
    reads[0][:CLASSES, CLASSES : CLASSES + absorbed] = -2
    for c in range(CLASSES):
        reads.append(eye[c] + eye[CLASSES : CLASSES + absorbed])
        bias.append(torch.full((absorbed,), -1.5, dtype=torch.float64))
    one.W_enc.data, one.b_enc.data = torch.cat(reads), torch.cat(bias)
    one.W_dec.data = torch.cat([eye, *(2 * rows for rows in reads[1:])])
    return one


def test_absorbing_features_are_seen_and_clean_ones_are_not():
    x, labels, _ = states()
    table = absorption({"clean": dictionary(0), "absorbing": dictionary(WORDS // 2)}, x, labels, seed=1)
    assert (table.probe_f1 == 1).all() and (table.main_features == 1).all()
    np.testing.assert_array_equal(table.absorption.sel(dictionary="clean"), 0)
    np.testing.assert_array_equal(table.fraction.sel(dictionary="clean"), 0)
    assert abs(float(table.absorption_rate.sel(dictionary="absorbing")) - 0.5) < 0.12
    np.testing.assert_allclose(table.fraction[1], table.absorption[1])


@pytest.mark.parametrize("absorbed", [2, 7])
def test_the_rate_is_a_count_over_held_out_tokens(absorbed):
    x, labels, word = states()
    # a word is a twentieth of its class: no feature of one is taken for half of the class
    table = absorption(dictionary(absorbed), x, labels, held_out=0.3, split_gain=0.1, seed=3)
    y = np.array(["abc".index(label) for label in labels])
    random = np.random.default_rng(3)
    for c in range(CLASSES):
        own = word.numpy()[random.permutation(np.flatnonzero(y == c))[:72]]
        assert float(table.tokens[0, c]) == 72
        np.testing.assert_allclose(float(table.absorption[0, c]), (own < absorbed).mean())


def test_a_class_that_two_features_share_is_split_and_not_absorbed():
    x, labels, _ = states()
    one = dictionary(0)
    both = Standard(D, D + CLASSES, dtype=torch.float64)
    first, second = slice(CLASSES, CLASSES + WORDS // 2), slice(CLASSES + WORDS // 2, D)
    both.W_enc.data = torch.cat([one.W_enc.data, one.W_enc.data[:CLASSES]])
    both.W_dec.data = torch.cat([one.W_dec.data, one.W_dec.data[:CLASSES]])
    both.b_enc.data -= 0.1
    both.W_enc.data[:CLASSES, first] = -2
    both.W_enc.data[D:, second] = -2
    table = absorption(both, x, labels)
    assert (table.main_features == 2).all() and float(table.absorption_rate[0]) == 0


def test_first_letters_are_read_at_the_words_own_tokens():
    model = cb.load("meadow")
    one = TopK(model.d_model, 320, k=8, facts=Facts(site="resid_post.0"))
    words = [t[1:] for i in range(2000) if len(t := model.token_text(i)) > 3 and t[0] == " " and t[1:].isalpha()]
    words = [word for word in words if word[0].lower() in "ms"]
    table = first_letter_absorption(model, one, words=words, shots=0, seed=2)
    order = np.random.default_rng(2).permutation(len(words))
    own = [words[i] for i in order]
    x = torch.stack([model.run([[model.token_id(f" {w}")]], read=["resid_post.0"])["resid_post", 0][0, 0] for w in own])
    alone = absorption(one, x, [w[0].lower() for w in own], seed=2)
    assert table.group.values.tolist() == ["m", "s"]
    for name in ("absorption", "fraction", "main_features", "probe_f1", "tokens"):
        np.testing.assert_allclose(table[name], alone[name], atol=1e-6)
    shown = first_letter_absorption(model, one, words=words, shots=3, seed=2)
    assert shown.attrs["words"] == len(words) - 3


def test_what_cannot_be_judged_is_refused():
    x, labels, _ = states()
    with pytest.raises(TokensError, match="719 labels"):
        absorption(dictionary(0), x, labels[1:])
    with pytest.raises(CasebackError, match="1 classes"):
        absorption(dictionary(0), x, ["a"] * len(x))
    with pytest.raises(OutOfRange, match="held_out is 1"):
        absorption(dictionary(0), x, labels, held_out=1)
    model = shelf.model("llama")
    with pytest.raises(ArgumentError, match="several sites"):
        first_letter_absorption(
            model, {str(i): TopK(32, 64, k=2, facts=Facts(site=f"resid_post.{i}")) for i in range(2)}
        )
