"""Spread: stones that take their neighbors, on a board of five by five squares.

    legal(s)    s is empty, and a neighbor of s (up, down, left, right) is the mover's
    a move      puts a stone on s, and the other's stones beside s become the mover's
    the end     when who is to move has no legal move

Black moves first, with stones in two opposite corners; White has the other two. A square is whose who last moved on it
or beside it, so that a board follows from the moves alone, and stones change hands again and again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SIDE = 5
SQUARES = [f"{column}{row + 1}" for row in range(SIDE) for column in "abcde"]
MOVES = len(SQUARES) - 4
START, END = "<|endoftext|>", "end"
VOCABULARY = len(SQUARES) + 2
BLACK, WHITE = 1, -1


def _neighbors() -> np.ndarray:
    at = np.array([(row, column) for row in range(SIDE) for column in range(SIDE)])
    return np.abs(at[:, None] - at[None]).sum(-1) == 1


NEIGHBORS = _neighbors()


class Games(NamedTuple):
    """Games of random legal moves.

    Attributes
    ----------
    ids
        ``START``, then each move's token, then ``END`` to the row's end.
    boards
        What stands on each square after each token but the last: ``BLACK``, ``WHITE`` or 0.
    """

    ids: Int[Tensor, "game pos"]
    boards: Int[np.ndarray, "game pos square"]


def start() -> Int[np.ndarray, " square"]:
    """The board before the first move."""
    board = np.zeros(len(SQUARES), np.int8)
    board[[0, -1]], board[[SIDE - 1, -SIDE]] = BLACK, WHITE
    return board


def players() -> Int[np.ndarray, " pos"]:
    """Who moves after each token but the last."""
    return np.where(np.arange(MOVES) % 2 == 0, BLACK, WHITE)


def legal(
    boards: Int[np.ndarray, "*batch square"], mover: Int[np.ndarray, "*batch"]
) -> Bool[np.ndarray, "*batch square"]:
    """Where who moves may put a stone.

    Examples
    --------
    >>> [SQUARES[i] for i in legal(start(), np.array(BLACK)).nonzero()[0]]
    ['b1', 'a2', 'e4', 'd5']
    """
    own = boards == mover[..., None]
    return (boards == 0) & ((own.astype(np.int8) @ NEIGHBORS.astype(np.int8)) > 0)


def moved(
    boards: Int[np.ndarray, "batch square"], mover: int, squares: Int[np.ndarray, " batch"]
) -> Int[np.ndarray, "batch square"]:
    """The boards after a move on each.

    Examples
    --------
    >>> board = moved(start()[None], BLACK, np.array([3]))
    >>> [SQUARES[i] for i in (board[0] == BLACK).nonzero()[0]]
    ['a1', 'd1', 'e1', 'e5']
    """
    after = np.where(NEIGHBORS[squares] & (boards == -mover), mover, boards)
    after[np.arange(len(after)), squares] = mover
    return after.astype(np.int8)


def games(count: int, seed: tuple[int, ...]) -> Games:
    """Games of moves that are drawn evenly from the legal ones.

    Parameters
    ----------
    count
        How many.
    seed
        Same seed, same result.
    """
    rng = np.random.default_rng(seed)
    board, going = np.tile(start(), (count, 1)), np.ones(count, bool)
    ids, boards = np.zeros((count, MOVES + 1), np.int64), np.zeros((count, MOVES, len(SQUARES)), np.int8)
    for t, mover in enumerate(players().tolist()):
        boards[:, t] = board
        open_squares = legal(board, np.full(count, mover))
        going &= open_squares.any(1)
        squares = (rng.random(open_squares.shape) * open_squares).argmax(1)
        ids[:, t + 1] = np.where(going, squares + 1, VOCABULARY - 1)
        board = np.where(going[:, None], moved(board, mover, squares), board)
    return Games(torch.from_numpy(ids), boards)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a square; ``<|endoftext|>``, token 0, opens every game."""
    words = {START: 0} | {name: i + 1 for i, name in enumerate(SQUARES)} | {END: VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token=START))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), START)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MOVES + 1, **names)
