"""The board in the stream of a model that sees moves alone: read by linear probes, and changed (PRIMER 5.4.15).

    own     mine, yours or none, of who moves next          colour  black, white or none              (Nanda 2023b)
    probe   ridge regression on the three indicators of every square, one factorization for all squares of a layer
    write   x ~ sum_s own_s e_s + sum_s stone_s f_s + c     least squares, own_s = 1 for mine, -1 for yours, 0 for none
    edit    x <- x - 2 factor own_s e_s                     the stone on one square changes hands
    errors  likeliest |L| moves that are not in L, and those of L that are not among them       (Li et al. 2023)

L are the moves that are legal on the board with this stone turned. What reads a square is no good for writing it:
boards are correlated, and a probe's direction, or the covariance times it, moves the stones beside it too; e_s holds
them. Beside the edit stand random directions of the same length. Probes and directions are fitted on some games and
judged on others, beside an untrained model, and beside boards of other games after as many moves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.behaviors.mechanisms.boards import BoardGames
from caseback.decode.probes.baselines import untrained
from caseback.decode.probes.standard import Standard, loaded
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Add
from caseback.model.running.model import Model

CONVENTIONS = ("own", "color")
STATES = (1, -1, 0)
"""What a square holds: mine (or black), yours (or white), nothing."""
SITE = "resid_post"
LEAST = 8


class Board(NamedTuple):
    """Probes of one model, by layer: weights of features as they are."""

    weight: Float[Tensor, "layer d square state"]
    bias: Float[Tensor, "layer square state"]


@technique(
    entry=("5.4.15",),
    citation="Li et al. 2023, Nanda et al. 2023",
    cost="two forwards per game, a factorization a layer, and a forward per layer and draw for each edited position",
)
def world_model(
    model: Model,
    games: BoardGames,
    *,
    edits: int = 200,
    draws: int = 5,
    factor: float = 2.0,
    penalty: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Read the board from the stream after each layer, in both conventions, and turn stones there.

    Parameters
    ----------
    model
        The model, which gets the games' tokens and no board.
    games
        Games with their boards; probes are fitted on half of them and judged on the others.
    edits
        Positions of judged games at which a stone is turned; only stones that change which moves are legal.
    draws
        Random directions that each edit is compared with.
    factor
        How far a stone is turned; 1 is as far as least squares say that stones lie apart.
    penalty
        Of the probes' weights, in units of a standardized feature's variance.
    seed
        Same seed, same result. Splits the games, and draws stones and directions.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``accuracy`` (variant, layer, feature): of each square's state by convention, over all judged positions;
        ``stones`` the same where a stone stands; ``stones_control`` (control, variant, layer, feature) of an
        ``untrained`` model, and of the boards of ``other games``; ``majority`` (variant, feature) of saying each
        square's most frequent stone after as many moves. ``legal`` (layer, batch): the probability of moves that are
        legal on the board with a stone turned, and ``errors`` as above; ``legal_control`` and
        ``errors_control`` (draw, layer, batch) along random directions; beside them ``plain_legal`` and
        ``plain_errors`` without an edit, the ``square`` and the ``move`` (its position). The attribute ``legal`` is
        the mean probability of legal moves in judged games.

    Raises
    ------
    OutOfRange
        For fewer than 8 games, edits or draws below 1, or a factor or penalty not above 0.
    CasebackError
        For tokens that the model does not know, or games in which no stone changes what is legal.

    References
    ----------
    Nanda et al. 2023, "Emergent linear representations in world models of self-supervised sequence models"; Li et al.
    2023, "Emergent world representations".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.behaviors import spread_games
    >>> read = world_model(cb.load("spread"), spread_games(20), edits=4, draws=1)
    >>> read["stones"].dims, read["errors"].dims
    (('variant', 'layer', 'feature'), ('layer', 'batch'))
    """
    if len(games) < LEAST or min(edits, draws) < 1 or not min(penalty, factor) > 0:
        raise OutOfRange(
            f"{len(games)} games, {edits} edits, {draws} draws, factor {factor}, penalty {penalty}: expected {LEAST} "
            "games or more, 1 edit and draw or more, and a factor and a penalty above 0"
        )
    if int(games.ids.max()) >= model.d_vocab or max(games.moves) >= model.d_vocab:
        raise CasebackError(f"tokens up to {int(games.ids.max())}: the model has {model.d_vocab}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(games))
    fitted, judged = games.of(np.sort(order[: len(order) // 2])), games.of(np.sort(order[len(order) // 2 :]))
    states, _ = _read(model, fitted)
    held, probabilities = _read(model, judged)
    boards = {name: (_seen(fitted, name), _seen(judged, name)) for name in CONVENTIONS}
    there = boards["own"][1] != 0
    probes = {name: _probes(states, own, penalty) for name, (own, _) in boards.items()}
    right = {name: _guesses(probes[name], held) == boards[name][1] for name in CONVENTIONS}
    fresh = untrained(model, seed)
    bare, bare_held = _read(fresh, fitted)[0], _read(fresh, judged)[0]
    dealt = {name: (_dealt(fitted, own, rng), _dealt(judged, other, rng)) for name, (own, other) in boards.items()}
    controls = np.stack(
        [
            [
                _share(_guesses(_probes(bare, own, penalty), bare_held) == other, other != 0)
                for own, other in boards.values()
            ],
            [
                _share(_guesses(_probes(states, own, penalty), held) == other, other != 0)
                for own, other in dealt.values()
            ],
        ]
    )
    coords: dict[str, Any] = {
        "variant": list(CONVENTIONS),
        "layer": list(range(model.n_layers)),
        "feature": list(games.squares),
        "control": ["untrained", "other games"],
    }
    legal = games.legal(judged.boards[judged.counted], judged.movers[judged.counted])
    common = {
        "technique": world_model,
        "model": model,
        "legal": float((probabilities * legal).sum(-1)[legal.any(-1)].mean()),
        "games": len(judged),
        "draws": draws,
        "factor": factor,
        "penalty": penalty,
        "seed": seed,
    }
    arrays = {
        "accuracy": (np.stack([one.mean(1) for one in right.values()]), ["variant", "layer", "feature"]),
        "stones": (np.stack([_share(one, there) for one in right.values()]), ["variant", "layer", "feature"]),
        "stones_control": (controls, ["control", "variant", "layer", "feature"]),
        "majority": (np.stack([_majority(fitted, judged, name) for name in CONVENTIONS]), ["variant", "feature"]),
    }
    turns = -2 * factor * _writes(states, boards["own"][0])
    changed, beside = _turned(model, judged, turns, edits, draws, rng, progress)
    coords |= {name: ("batch", of) for name, of in beside.items()}
    arrays |= {name: (values, ["draw", "layer", "batch"][3 - values.ndim :]) for name, values in changed.items()}
    labels = {
        name: labelled(
            values,
            dims,
            {key: of for key, of in coords.items() if key in dims or (isinstance(of, tuple) and of[0] in dims)},
            name=name,
            **common,
        )
        for name, (values, dims) in arrays.items()
    }
    return xr.Dataset(labels, attrs=labels["accuracy"].attrs)


def _read(
    model: Model, games: BoardGames
) -> tuple[Float[Tensor, "layer example d"], Float[np.ndarray, "example square"]]:
    """States of every counted token after each layer, and the probabilities of the moves there."""
    size, states, p = limit("task_prompts", model.device), [], []
    moves = list(games.moves)
    for start in range(0, len(games), size):
        ids, counted = games.ids[start : start + size], torch.from_numpy(games.counted[start : start + size])
        run = model.run(model.tokens(ids.tolist()), read=[SITE])
        counted = counted.to(model.device)
        states.append(in_float64(torch.stack([run[SITE, layer][counted] for layer in range(model.n_layers)])))
        p.append(in_float64(run.logits[counted]).softmax(-1)[:, moves].cpu())
    return torch.cat(states, 1), torch.cat(p).numpy()


def _seen(games: BoardGames, convention: str) -> Int[np.ndarray, "example square"]:
    boards = games.boards[games.counted].astype(int)
    return boards * games.movers[games.counted][:, None] if convention == "own" else boards


def _dealt(games: BoardGames, seen: np.ndarray, rng: np.random.Generator) -> Int[np.ndarray, "example square"]:
    """Boards of other games after as many moves."""
    moves, other = games.counted.nonzero()[1], seen.copy()
    for move in np.unique(moves):
        at = (moves == move).nonzero()[0]
        other[at] = seen[np.roll(at, 1 + int(rng.integers(max(1, len(at) - 1))))]
    return other


def _probes(x: Tensor, seen: np.ndarray, penalty: float) -> Board:
    """Ridge regression on the indicators of every square at once."""
    standard = Standard.of(x)
    target = torch.from_numpy(np.stack([seen == state for state in STATES], -1).astype(float)).to(x).flatten(1)
    mean = target.mean(0)
    cross = standard.transposed((target - mean).expand(len(x), -1, -1)) / len(target)
    w = torch.linalg.solve(loaded(standard.gram, x.new_full((len(x),), penalty)), cross)
    weight, bias = standard.folded(w, mean.expand(len(x), -1))
    return Board(weight.unflatten(-1, (-1, 3)), bias.unflatten(-1, (-1, 3)))


def _writes(x: Float[Tensor, "layer example d"], own: np.ndarray) -> Float[Tensor, "layer square d"]:
    """What a stone of one's own adds to the stream at each square, whatever stands on the others."""
    design = torch.from_numpy(np.concatenate([own, own != 0, np.ones((len(own), 1))], 1).astype(float)).to(x)
    # squares that always have a stone are no different from the constant: the shortest solution
    return (torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ x))[:, : own.shape[1]]


def _guesses(board: Board, x: Tensor) -> Int[np.ndarray, "layer example square"]:
    scores = torch.einsum("led,ldst->lest", x, board.weight) + board.bias[:, None]
    return np.array(STATES)[scores.argmax(-1).cpu().numpy()]


def _share(right: np.ndarray, there: Bool[np.ndarray, "example square"]) -> Float[np.ndarray, "layer square"]:
    return (right & there).sum(1) / there.sum(0).clip(1)


def _majority(fitted: BoardGames, judged: BoardGames, convention: str) -> Float[np.ndarray, " square"]:
    """How often the stone that is most frequent on a square after as many moves stands there, where one does."""
    own, other = _seen(fitted, convention), _seen(judged, convention)
    places = range(fitted.ids.shape[1])
    moves = fitted.counted.nonzero()[1]
    sums = np.stack([own[moves == place].sum(0) for place in places])
    return _share((np.where(sums >= 0, 1, -1)[judged.counted.nonzero()[1]] == other)[None], other != 0)[0]


def _turned(
    model: Model, games: BoardGames, turns: Tensor, edits: int, draws: int, rng: np.random.Generator, progress: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Turn one stone of as many positions, layer by layer: shares and errors, with what stands beside them."""
    rows, columns = games.counted.nonzero()
    stones = games.boards[rows, columns] != 0
    squares = (rng.random(stones.shape) * stones).argmax(-1)
    after = games.boards[rows, columns].copy()
    after[np.arange(len(after)), squares] *= -1  # where there is no stone nothing changes
    movers = games.movers[rows, columns]
    then, before = games.legal(after, movers), games.legal(games.boards[rows, columns], movers)
    telling = np.flatnonzero((then != before).any(1) & then.any(1))
    if not len(telling):
        raise CasebackError("no stone of these games changes which moves are legal: expected longer games")
    chosen = np.sort(rng.permutation(telling)[:edits])
    rows, columns, squares, then = rows[chosen], columns[chosen], squares[chosen], then[chosen]
    own = torch.from_numpy(games.boards[rows, columns, squares] * games.movers[rows, columns])
    prompts = [games.ids[row, : column + 1].tolist() for row, column in zip(rows, columns, strict=True)]
    size, order = limit("task_prompts", model.device), np.argsort(columns, kind="stable")
    values = {name: np.zeros((1 + draws, model.n_layers, len(chosen))) for name in ("legal", "errors")}
    plain = {name: np.zeros(len(chosen)) for name in values}
    draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with progress_bar(what="turning stones", show=progress, total=len(chosen)) as bar:
        for start in range(0, len(order), size):
            some = order[start : start + size]
            tokens = model.tokens([prompts[i] for i in some])
            at, allowed = (torch.arange(len(some)), tokens.column(-1)), then[some]
            for name, value in _measured(model.run(tokens).logits[at], games, allowed).items():
                plain[name][some] = value
            for layer in range(model.n_layers):
                change = turns[layer, squares[some]] * own[some, None].to(turns)
                random = torch.randn(draws, *change.shape, generator=draw, dtype=torch.float64).to(change)
                random *= change.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
                for k, one in enumerate((change, *random)):
                    run = model.run(tokens, edits=[Add(SITE, layer=layer, pos=-1, value=one)])
                    for name, value in _measured(run.logits[at], games, allowed).items():
                        values[name][k, layer, some] = value
            bar.update(len(some))
    changed = {name: table[0] for name, table in values.items()}
    changed |= {f"{name}_control": table[1:] for name, table in values.items()}
    names = [games.squares[i] for i in squares]
    return changed, {"square": names, "move": columns} | {f"plain_{name}": of for name, of in plain.items()}


def _measured(
    logits: Float[Tensor, "batch vocab"], games: BoardGames, allowed: Bool[np.ndarray, "batch square"]
) -> dict[str, np.ndarray]:
    """The probability of what is allowed, and the errors among as many of the likeliest moves."""
    p = in_float64(logits).softmax(-1)[:, list(games.moves)].cpu().numpy()
    rank = (-p).argsort(-1, kind="stable").argsort(-1, kind="stable")
    top = rank < allowed.sum(-1, keepdims=True)
    return {"legal": (p * allowed).sum(-1), "errors": (top != allowed).sum(-1).astype(float)}
