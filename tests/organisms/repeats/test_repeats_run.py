"""The induction run: its text, its steps, and that the shipped checkpoints show the phase change that the card tells."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.organisms import checkpoints, path
from caseback.organisms.repeats import words
from caseback.organisms.repeats.card import card, change
from caseback.organisms.repeats.measure import SPAN, growth, random_spans
from caseback.organisms.repeats.train import MILESTONES, new_model, train


@pytest.fixture(scope="module")
def grown():
    return growth(path("induction"))


def test_the_chain_is_a_distribution_over_words():
    table = words.chain(0)
    np.testing.assert_allclose(table.sum(1), 1)
    assert (table[:, 0] == 0).all() and (table[:, 1:] > 0).all()
    # four followers carry most of it, and no other word as much as one of them
    assert (np.sort(table, 1)[:, -4:].sum(1) > words.OFTEN).all()


def test_rows_are_of_the_chain_and_of_spans_that_come_again():
    table = words.chain(0)
    rows = words.rows(table, 200, (0, 7))
    assert rows.shape == (200, words.LENGTH + 1) and (rows[:, 0] == 0).all() and (rows[:, 1:] > 0).all()
    assert torch.equal(rows, words.rows(table, 200, (0, 7))) and not torch.equal(rows, words.rows(table, 200, (0, 8)))
    likely = table[rows[:, :-1], rows[:, 1:]] > 0.08
    again = torch.stack([(rows[:, 10:] == rows[:, 10 - lag : -lag]) for lag in range(3, 10)]).any(0)
    assert 0.3 < likely.mean() < 0.7 and 0.2 < again.double().mean() < 0.6


def test_a_text_is_one_token_a_word():
    tokenizer = words.tokenizer()
    text = words.texts(1)[0]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 0 and len(ids) == words.LENGTH and len(set(words.WORDS)) == words.VOCABULARY - 1
    assert tokenizer("unheard")["input_ids"] == [0, 0]


def test_a_start_follows_from_its_seed_and_leaves_other_draws_alone():
    drawn = torch.get_rng_state()
    one, two, other = new_model(1), new_model(1), new_model(2)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", seed=1, steps=4, save_every=2)
    train(tmp_path / "parts", seed=1, steps=4, stop_at=2, save_every=2)
    parts = train(tmp_path / "parts", seed=1, steps=4, save_every=2)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert cb.load(tmp_path / "parts").declared


def test_the_shipped_run_is_small_and_whole():
    folders = checkpoints("induction")
    assert tuple(folders) == MILESTONES and len(folders) >= 12
    everything = sum(file.stat().st_size for file in path("induction").rglob("*") if file.is_file())
    assert everything < 4e6
    last = cb.load(str(folders[MILESTONES[-1]])).hf.state_dict()
    assert all(torch.equal(weight, last[name]) for name, weight in cb.load("induction").hf.state_dict().items())


def test_the_first_checkpoint_is_the_start():
    shipped = cb.load(str(checkpoints("induction")[0])).hf.state_dict()
    for name, weight in new_model(0).state_dict().items():
        torch.testing.assert_close(shipped[name], weight, rtol=1e-3, atol=1e-6)


def test_5_4_13_bigrams_come_first_and_looking_back_comes_at_once(grown):
    before, after = change(grown)
    assert before >= 700 and after - before <= 300
    early, late = grown.sel(step=before), grown.isel(step=-1)
    # before: most of the loss on text has fallen, and nothing looks back; after: both heads of the circuit
    assert float(grown.loss[0] - early.loss) > 1.5
    assert early.induction < 0.05 and abs(float(early.second - early.first)) < 0.3
    assert late.induction > 0.5 and late.previous > 0.8 and late.first - late.second > 3


def test_5_4_13_the_last_checkpoint_has_an_induction_head_and_the_first_has_none():
    rows, later = random_spans(), torch.arange(SPAN + 1, 2 * SPAN)
    best = []
    for step in (0, 700, MILESTONES[-1]):
        pattern = cb.load(str(checkpoints("induction")[step])).run(rows.tolist(), read=["pattern"])["pattern"]
        best.append(float(pattern.mean(1)[:, :, later, later - SPAN + 1].mean(-1).max()))
    assert best[0] < 0.05 and best[1] < 0.05 and best[2] > 0.5


def test_the_card_says_what_is_measured(grown):
    text = card(grown, 0)
    assert text == (path("induction") / "README.md").read_text(encoding="utf-8")
