"""Games with the boards that stand behind them: what a model that sees moves alone may know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked
from caseback.organisms.board import game

__all__ = ["BoardGames", "spread_games"]


@checked
@dataclass(frozen=True, eq=False)
class BoardGames:
    """Games of two players as tokens, and the board after each of them.

    Attributes
    ----------
    ids
        (game, pos) tokens.
    boards
        (game, pos, square), what stands there after each token: 1 for a stone of the first player, −1 for one of the
        second, 0 for none.
    movers
        (game, pos), who moves next: 1 or −1.
    counted
        (game, pos), where there is a next move to ask for.
    squares
        Their names.
    moves
        The token of a move on each square.
    legal
        From boards (position, square) and movers (position) to where a stone may be put.

    Raises
    ------
    CasebackError
        For arrays that do not fit each other.
    """

    ids: Int[np.ndarray, "game pos"]
    boards: Int[np.ndarray, "game pos square"]
    movers: Int[np.ndarray, "game pos"]
    counted: Bool[np.ndarray, "game pos"]
    squares: tuple[str, ...]
    moves: tuple[int, ...]
    legal: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        shape, n = self.ids.shape, len(self.squares)
        if self.boards.shape != (*shape, n) or self.movers.shape != shape or self.counted.shape != shape:
            raise CasebackError(
                f"boards of {self.boards.shape} for games of {shape} tokens on {n} squares: expected a board, who "
                "moves and whether it counts for each token"
            )
        if (
            len(self.moves) != n
            or not np.isin(self.boards, (-1, 0, 1)).all()
            or not np.isin(self.movers, (-1, 1)).all()
        ):
            raise CasebackError(
                "expected a token for a move on each square, stones of 1, -1 or 0, and movers of 1 or -1"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, games: Sequence[int] | np.ndarray) -> BoardGames:
        """Some of the games."""
        part = {name: getattr(self, name)[games] for name in ("ids", "boards", "movers", "counted")}
        return BoardGames(**part, squares=self.squares, moves=self.moves, legal=self.legal)


@checked
def spread_games(count: int = 300, seed: int = 0) -> BoardGames:
    """Random games that the bundled model ``spread`` was not trained on.

    Parameters
    ----------
    count
        How many.
    seed
        Same seed, same result.

    Raises
    ------
    OutOfRange
        For no games.

    Examples
    --------
    >>> games = spread_games(2)
    >>> games.boards.shape, int(games.legal(games.boards[:, 0], games.movers[:, 0]).sum())
    ((2, 21, 25), 8)
    """
    if count < 1:
        raise OutOfRange(f"{count} games: expected 1 or more")
    drawn = game.games(count, (seed, 2**31))
    ids = drawn.ids.numpy()[:, :-1]
    movers = np.broadcast_to(game.players(), ids.shape)
    counted = ids != game.VOCABULARY - 1
    squares = tuple(game.SQUARES)
    return BoardGames(ids, drawn.boards, movers, counted, squares, tuple(range(1, len(squares) + 1)), game.legal)
