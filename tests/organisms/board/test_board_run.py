"""The board run: its game, its steps, and that the shipped model does what its card tells."""

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.organisms import path
from caseback.organisms.board import game
from caseback.organisms.board.card import card, legality
from caseback.organisms.board.train import new_model, train


@pytest.fixture(scope="module")
def measured():
    return legality(path("spread"))


def replayed(row):
    """A game by the rules, square by square, without arrays: the boards before each move, and what was legal."""
    board = {(r, c): 0 for r in range(5) for c in range(5)}
    board[0, 0] = board[4, 4] = 1
    board[0, 4] = board[4, 0] = -1
    mover, boards, allowed = 1, [], []
    beside = lambda r, c: [(r + a, c + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)) if (r + a, c + b) in board]  # noqa: E731
    for token in row[1:]:
        boards.append(list(board.values()))
        legal = [at for at in board if not board[at] and any(board[near] == mover for near in beside(*at))]
        allowed.append(legal)
        if token == game.VOCABULARY - 1:
            break
        at = divmod(token - 1, 5)
        for near in beside(*at):
            board[near] = mover if board[near] == -mover else board[near]
        board[at], mover = mover, -mover
    return boards, allowed


def test_games_follow_the_rules():
    drawn = game.games(50, (0, 7))
    assert torch.equal(drawn.ids, game.games(50, (0, 7)).ids)
    ends = 0
    for row, boards in zip(drawn.ids.tolist(), drawn.boards, strict=True):
        expected, allowed = replayed(row)
        np.testing.assert_array_equal(boards[: len(expected)], expected)
        for t, legal in enumerate(allowed):
            table = game.legal(boards[t], game.players()[t])
            assert [divmod(int(i), 5) for i in table.nonzero()[0]] == sorted(legal)
            token = row[t + 1]
            assert divmod(token - 1, 5) in legal if legal else token == game.VOCABULARY - 1
        ends += row[-1] == game.VOCABULARY - 1
    assert 0 < ends < 50


def test_a_game_is_one_token_a_move():
    ids = game.tokenizer()("b1 e3 end")["input_ids"]
    assert ids == [0, 2, 15, 26] and game.VOCABULARY == 27


def test_an_interrupted_board_run_goes_on_to_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", seed=1, steps=4, save_every=2)
    train(tmp_path / "parts", seed=1, steps=4, stop_at=2, save_every=2)
    parts = train(tmp_path / "parts", seed=1, steps=4, save_every=2)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert cb.load(tmp_path / "parts").declared
    start = new_model(1).state_dict()
    assert not torch.equal(start["lm_head.weight"], whole.state_dict()["lm_head.weight"])


def test_5_4_15_the_shipped_model_knows_what_is_legal(measured):
    assert float(measured.legal.mean()) > 0.97 and float(measured["first"].mean()) > 0.99
    # who knew no colors would do this well
    assert float(measured.empty.mean()) < 0.7
    assert 0 < float((measured.loss - measured.least).mean()) < 0.1


def test_the_boards_card_says_what_is_measured_and_it_is_small(measured):
    folder = path("spread")
    steps = cb.load("spread").hf.config.caseback["step"]
    assert card(measured, 0, steps) == (folder / "README.md").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6
