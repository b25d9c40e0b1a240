"""Rows of tokens, the start, Muon, and a training that can be interrupted."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from caseback import organisms
from caseback.organisms import muon, packing, start, train
from caseback.organisms.stepping import optimizers_of, take_step


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(organisms.path("meadow"))


@pytest.fixture
def tiny(monkeypatch, tokenizer):
    """Trainings of a few rows, with the shipped tokenizer and nothing asked on the way."""
    monkeypatch.setattr(train, "ROWS", 2)
    monkeypatch.setattr(train, "FIRST_MILESTONE", 1)
    monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(train, "_progress", lambda model, tokenizer: "asked")


@pytest.mark.parametrize("span", [packing.repeated_span, packing.short_span])
def test_repeated_span_repeats_and_never_holds_the_special_token(span):
    rng = random.Random(0)
    for _ in range(200):
        ids, weights = span(rng, 50, special=7)
        assert 7 not in ids and len(ids) == len(weights) and max(ids) < 50
        copied = [token for token, weight in zip(ids, weights, strict=True) if weight == 1.0]
        assert copied and set(copied) <= set(ids[: weights.index(1.0)])


def test_rows_follow_from_the_seed(tokenizer):
    ids, weights = packing.rows(tokenizer, 4, 64, "0-0")
    same_ids, same_weights = packing.rows(tokenizer, 4, 64, "0-0")
    assert torch.equal(ids, same_ids) and torch.equal(weights, same_weights)
    assert not torch.equal(ids, packing.rows(tokenizer, 4, 64, "0-1")[0])
    assert ids.shape == weights.shape == (4, 64)


def test_early_rows_have_more_of_random_spans(tokenizer):
    shares = []
    for early in (0.0, 1.0):
        _, weights = packing.rows(tokenizer, 40, 128, "0-0", early)
        shares.append((weights == packing.CHANCE_WEIGHT).float().mean().item())
    assert 0.05 < shares[0] < shares[1] - 0.05


def test_one_matrix_turns_every_position_into_the_one_before():
    positions = start.sinusoids(128, 32).double()
    # 127 equations in 32 unknowns: only a true rotation solves them all
    back = torch.linalg.lstsq(positions[1:], positions[:-1], driver="gelsd").solution
    torch.testing.assert_close(positions[1:] @ back, positions[:-1], rtol=0, atol=1e-5)


def test_the_start_has_its_positions_and_follows_from_the_seed(tokenizer):
    drawn = torch.get_rng_state()
    model, same, other = (train.new_model(tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), drawn)
    wpe = model.transformer.wpe.weight
    torch.testing.assert_close(wpe[:, : start.WIDTH], start.SCALE * start.sinusoids(len(wpe), start.WIDTH))
    assert not wpe[:, start.WIDTH :].any()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(model.transformer.wte.weight, other.transformer.wte.weight)


def test_orthogonalized_singular_values_are_near_one():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 20, 20), (2, 12, 48), (2, 48, 12)):
        values = torch.linalg.svdvals(muon.orthogonalized(torch.randn(shape, generator=generator)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_rates_warm_up_and_fall_three_times():
    rates = [train.rate(step, train.STEPS) for step in range(train.STEPS)]
    rising = [step for step in range(1, train.STEPS) if rates[step] > rates[step - 1]]
    again = {begin: peak for begin, _, peak in train.FALLS[1:]}
    assert rising == [*range(1, train.WARM_UP), *again]
    assert max(rates) == 1.0 and rates[-1] < 0.021
    assert all(rates[begin] == peak for begin, peak in again.items())
    assert all(0 < train.rate(step, 3) <= 1 for step in range(3))


def test_milestones_double():
    kept = [step for step in range(2000) if train.is_milestone(step)]
    assert kept == [0, 25, 50, 100, 200, 400, 800, 1600]


def test_interrupted_training_ends_as_the_uninterrupted(tiny, tmp_path):
    told = []
    whole = train.train(tmp_path / "whole", seed=1, steps=4, tell=lambda *said: told.append(said))
    train.train(tmp_path / "parts", seed=1, steps=4, stop_at=2)
    parts = train.train(tmp_path / "parts", seed=1, steps=4)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=0, atol=0)
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4] and "asked" in told[-1][2]


def test_checkpoints_load_and_differ_and_say_what_they_are(tiny, tmp_path):
    trained = train.train(tmp_path, seed=0, steps=3)
    kept = {}
    for step in (0, 1, 2):
        folder = tmp_path / "checkpoints" / f"step-{step}"
        kept[step] = GPT2LMHeadModel.from_pretrained(folder).transformer.wte.weight
        assert json.loads((folder / "config.json").read_text())["caseback"] == {"seed": 0, "step": step, "steps": 3}
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<|endoftext|>"
    assert not (tmp_path / "checkpoints" / "step-3").exists()
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[1], kept[2])
    last = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert last.config.caseback["step"] == 3 and last.dtype == torch.float32
    torch.testing.assert_close(last.transformer.wte.weight, trained.transformer.wte.weight, rtol=1e-3, atol=1e-4)


def test_a_step_lowers_the_loss_on_its_rows(tiny, tokenizer):
    model = train.new_model(tokenizer, seed=0)
    optimizers = optimizers_of(model, model.transformer.h, train.PEAKS)
    rows = packing.rows(tokenizer, 2, 64, "0-0")
    losses = []
    for _ in range(4):
        loss = train.loss_on(model, *rows)
        losses.append(loss.item())
        take_step(model, optimizers, train.PEAKS, 1.0, loss)
    assert losses[-1] < losses[0] - 0.1
