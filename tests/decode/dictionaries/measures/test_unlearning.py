"""Planted subjects: with a feature each, one is forgotten and no other; with features that are shared, both are."""

import numpy as np
import pytest
import torch

from caseback.decode.dictionaries import Facts, Standard
from caseback.decode.dictionaries.measures import unlearning
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.loading.load import load

SUBJECTS, WORDS, D = 8, 20, 12
"""Each subject has 20 tokens and one answer; the first four are to be forgotten."""
Q = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
FORGET = range(4)


@pytest.fixture(scope="module")
@torch.no_grad()
def model():
    """A token's state is its subject's direction and noise, and the answer is read from it."""
    draw = torch.Generator().manual_seed(1)
    subject = torch.arange(SUBJECTS).repeat_interleave(WORDS)
    states = torch.nn.functional.one_hot(subject, D).double()
    states[:, SUBJECTS:] = 0.1 * torch.randn(len(states), D - SUBJECTS, generator=draw, dtype=torch.float64)
    config = CrystalConfig(
        vocab_size=len(states) + SUBJECTS,
        max_position_embeddings=4,
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=0,
    )
    hf = CrystalForCausalLM(config).double().eval()
    for parameter in hf.parameters():
        parameter.zero_()
    hf.model.embed_tokens.weight[: len(states)] = states @ Q
    hf.lm_head.weight[len(states) :] = 5 * torch.eye(SUBJECTS, D, dtype=torch.float64) @ Q
    return load(hf)


def dictionary(rows):
    one = Standard(D, len(rows), facts=Facts(site="resid_pre.0"), dtype=torch.float64)
    one.W_enc.data = one.W_dec.data = rows
    one.b_enc.data.fill_(-0.3)  # above the noise
    return one


def given(model):
    """States and questions of the subjects to forget and to retain: the last of two tokens is asked about."""
    sides = []
    for subjects in (FORGET, range(4, SUBJECTS)):
        words = [s * WORDS + i for s in subjects for i in range(WORDS)]
        sides.append((words, [([0, w], SUBJECTS * WORDS + w // WORDS) for w in words]))
    states = [model.run(torch.tensor(words)[:, None], read="embed")["embed"][:, 0] for words, _ in sides]
    return *states, *(questions for _, questions in sides)


def test_a_feature_a_subject_is_forgotten_alone(model):
    both = {"own": dictionary(Q), "shared": dictionary((Q[:4] + Q[4:8]) / 2**0.5)}  # by subjects i and i + 4
    table = unlearning(model, both, *given(model), k=[1, 4], strengths=[0.5, 3.0], rare=0.6)
    own = table.sel(dictionary="own")
    # a subject a feature: with all four held down nothing is left, with one a quarter is gone, and no other goes
    np.testing.assert_allclose(own.forgotten, [[0.25, 0.25], [1, 1]])
    np.testing.assert_allclose(own.retained, 1)
    assert own.score == 1 and table.attrs["forget_questions"] == table.attrs["retain_questions"] == 80
    assert own.held.values.tolist() == [1, 4]
    shared = table.sel(dictionary="shared")
    np.testing.assert_allclose(shared.forgotten.sel(dose=3), 1 - shared.retained.sel(dose=3))
    assert shared.score == 0  # whatever is forgotten, as much of the rest is
    assert table.sel(dictionary="own, random features").score == 0.25  # another subject of the four


def test_what_other_text_needs_is_never_chosen(model):
    forget, retain, *questions = given(model)
    one = dictionary(Q[:SUBJECTS])
    both = torch.cat([retain, forget[:1]])  # of 81 tokens one is of the first subject
    table = unlearning(model, one, forget, both, *questions, k=[8], strengths=[2.0], rare=0.0)
    assert int(table.held[0, 0]) == 3 and float(table.forgotten[0, 0, 0]) == 0.75
    nothing = unlearning(model, one, forget, torch.cat([retain, forget]), *questions, k=[8], strengths=[2.0], rare=0.0)
    assert int(nothing.held[0, 0]) == 0 and float(nothing.score[0]) == 0


def test_only_what_is_known_counts_and_bad_calls_are_refused(model):
    forget, retain, asked, others = given(model)
    one = dictionary(Q)
    wrong = [(prompt, (answer + 1 - SUBJECTS * WORDS) % SUBJECTS + SUBJECTS * WORDS) for prompt, answer in asked]
    table = unlearning(model, one, forget, retain, asked[:10] + wrong, others, k=[4], strengths=[2.0])
    assert table.attrs["forget_questions"] == 10
    with pytest.raises(CasebackError, match="answers none of 80 questions"):
        unlearning(model, one, forget, retain, wrong, others)
    with pytest.raises(CasebackError, match="each 2 values"):
        unlearning(model, one, forget, retain, asked, ["a"])
    with pytest.raises(OutOfRange, match="strengths"):
        unlearning(model, one, forget, retain, asked, others, strengths=[0.0])
    with pytest.raises(OutOfRange, match="k \\[0\\]"):
        unlearning(model, one, forget, retain, asked, others, k=[0])
    with pytest.raises(OutOfRange, match="rare 2"):
        unlearning(model, one, forget, retain, asked, others, rare=2)
    with pytest.raises(TokensError, match="reads 12"):
        unlearning(model, one, forget[:, :5], retain, asked, others)
