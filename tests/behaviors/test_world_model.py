"""World models: a planted board is read without error and turned; the bundled model holds one as mine and yours."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

import caseback as cb
from caseback.behaviors import BoardGames, spread_games, world_model
from caseback.behaviors.mechanisms.world_model import _probes, _writes
from caseback.errors import CasebackError, OutOfRange
from caseback.organisms.compiled.draft import Draft
from caseback.reports.concepts.world_model import world_model_document
from caseback.views.page.kinds import page_html
from caseback.views.text.concepts.world_model import print_world_model

SQUARES = 4


def claimed(count=24, moves=8, seed=0, *, alternate=False):
    """A game of one row: who moves on a square has it, and may move anywhere but on the other's squares.

    With ``alternate`` the players take turns; without, each token draws its player and the first is always next.
    """
    rng = np.random.default_rng(seed)
    squares, players = rng.integers(0, SQUARES, (count, moves)), rng.choice([1, -1], (count, moves))
    turns = np.where(np.arange(moves + 1) % 2 == 0, 1, -1)
    players = np.broadcast_to(turns[:-1], players.shape) if alternate else players
    boards = np.zeros((count, moves + 1, SQUARES), int)
    for t in range(moves):
        boards[:, t + 1] = boards[:, t]
        boards[np.arange(count), t + 1, squares[:, t]] = players[:, t]
    ids = np.concatenate([np.zeros((count, 1), int), 1 + squares + SQUARES * (players == -1)], 1)
    movers = np.broadcast_to(turns if alternate else np.ones(moves + 1, int), ids.shape)
    return BoardGames(
        ids,
        boards,
        movers,
        np.ones(ids.shape, bool),
        tuple("abcd"),
        tuple(range(1, SQUARES + 1)),
        lambda board, mover: board * mover[:, None] >= 0,
    )


@pytest.fixture(scope="module")
def planted():
    """A head for each square looks at the last move there; whose it was stands in the stream from layer 0 on."""
    words = [f"{kind}{square}" for kind in "xo" for square in "abcd"]
    n = 9
    parts = {"square": SQUARES, "sign": 1, "stone": 1, "place": 1, "one": 1, "color": SQUARES, "taken": SQUARES}
    draft = Draft(words, n, parts)
    for k, sign in enumerate((1.0, -1.0)):
        own = words[SQUARES * k : SQUARES * (k + 1)]
        draft.embed("square", own)
        draft.embed("sign", own, torch.full((SQUARES, 1), sign))
    draft.embed("stone", words, torch.ones(len(words), 1))
    draft.embed("one", ["<bos>", *words], torch.ones(1 + len(words), 1))
    draft.place("place", range(n + 1), torch.arange(n + 1.0)[:, None])
    for s in range(SQUARES):
        column = slice(s, s + 1)
        terms = [(draft["one"], draft["place"], 40.0), (draft["one"], draft["square"][:, column], 1000.0)]
        # the start of the row, which has no stone, where the square was not moved on
        terms.append((draft["one"], draft["stone"], -500.0))
        moves = [(draft["sign"], draft.into("color")[column]), (draft["stone"], draft.into("taken")[column])]
        draft.head(0, terms, moves)
    draft.unembed("color", words[:SQUARES])
    model = draft.model(layers=2)
    return cb.load(model.hf.double(), tokenizer=model.tokenizer)


def test_5_4_15_a_planted_board_is_read_without_error_and_turned(planted):
    read = world_model(planted, claimed(), edits=40, draws=4)
    assert (read["stones"] == 1).all() and (read["accuracy"] == 1).all()
    assert (read["stones_control"].mean("feature") < 0.9).all()
    # the board with one stone turned is what the moves obey, and no random direction does that
    assert read["plain_errors"].mean() > 1 and (read["errors"] == 0).all()
    assert (read["errors_control"].mean(("draw", "batch")) > 0.5).all()
    document = json.loads(json.dumps(world_model_document(planted, read)))
    assert document["steered"]["above"] and document["verdict"]["own"] == 1
    console = Console(record=True, width=140)
    print_world_model(document, console=console)
    assert ": steered" in console.export_text()
    assert page_html(document).count("<svg") >= 3


def test_5_4_15_a_board_that_is_held_by_color_is_read_as_such(planted):
    games = claimed(40, alternate=True)
    read = world_model(planted, games, edits=4, draws=1)
    assert (read["stones"].sel(variant="color") == 1).all()
    assert float(read["stones"].sel(variant="own").mean()) < 0.8
    verdict = world_model_document(planted, read)["verdict"]
    assert verdict["differs"] and verdict["gap"] < 0


def test_probes_are_ridge_regression_of_each_square_by_itself():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 5, generator=draw, dtype=torch.float64)
    seen = torch.randint(-1, 2, (60, 3), generator=draw).numpy()
    board = _probes(x, seen, 0.01)
    for layer in range(2):
        scaled = StandardScaler().fit(x[layer].numpy())
        for square in range(3):
            target = np.stack([seen[:, square] == state for state in (1, -1, 0)], 1).astype(float)
            other = Ridge(alpha=0.01 * 60).fit(scaled.transform(x[layer].numpy()), target)
            scores = x[layer] @ board.weight[layer, :, square] + board.bias[layer, square]
            np.testing.assert_allclose(scores, other.predict(scaled.transform(x[layer].numpy())), atol=1e-12)
    writes = _writes(x, seen)
    design = np.concatenate([seen, seen != 0], 1)
    other = LinearRegression().fit(design, x[1].numpy()).coef_[:, :3].T
    np.testing.assert_allclose(writes[1], other, atol=1e-12)


def test_5_4_15_the_bundled_model_holds_the_board_as_mine_and_yours():
    model = cb.load("spread")
    read = world_model(model, spread_games(120), edits=60, draws=2)
    assert read.attrs["legal"] > 0.97
    document = world_model_document(model, read)
    verdict, steered = document["verdict"], document["steered"]
    assert verdict["own"] > verdict["color"] > verdict["control"] and verdict["differs"] and verdict["gap"] > 0.05
    assert steered["above"] and steered["gain"] > 5 * max(steered["control"], 0.05)
    assert max(document["edited"]["legal"]) > document["plain"]["legal"]


def test_bad_games_are_refused_in_words(planted):
    games = claimed()
    with pytest.raises(OutOfRange, match="expected 8 games"):
        world_model(planted, claimed(4))
    with pytest.raises(OutOfRange, match="penalty 0"):
        world_model(planted, games, penalty=0.0)
    with pytest.raises(OutOfRange, match="0 games"):
        spread_games(0)
    with pytest.raises(CasebackError, match="the model has 9"):
        world_model(planted, spread_games(8))
    with pytest.raises(CasebackError, match="expected a board"):
        BoardGames(games.ids, games.boards[:, 1:], games.movers, games.counted, games.squares, games.moves, games.legal)
    with pytest.raises(CasebackError, match="stones of 1"):
        BoardGames(games.ids, 2 * games.boards, games.movers, games.counted, games.squares, games.moves, games.legal)
    free = BoardGames(
        games.ids, games.boards, games.movers, games.counted, games.squares, games.moves, lambda board, _: board == 0
    )
    with pytest.raises(CasebackError, match="no stone"):
        world_model(planted, free)
