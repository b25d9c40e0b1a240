"""The board run's card: how much of its probability is on legal moves, move by move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from caseback.jobs.whole_file import whole_file
from caseback.model.crystal import CrystalForCausalLM
from caseback.organisms.board import game
from caseback.organisms.board.train import BETAS, DECAY, HEADS, HELD, LAYERS, PEAKS, ROWS, WIDTH

GAMES = 1000


@torch.no_grad()
def legality(folder: Path) -> xr.Dataset:
    """What a model does in games that were held out, over ``move``.

    Parameters
    ----------
    folder
        The folder that ``train`` wrote.

    Returns
    -------
    xr.Dataset
        ``legal``, the probability of legal moves, or of ``end`` where there is none; ``first``, how often the first
        choice is one; ``empty``, the share of empty squares with a stone beside them that are legal, which is what a
        model that knew no colors could do; and ``loss`` beside ``least``, that of who knows the rules.
    """
    model = CrystalForCausalLM.from_pretrained(folder, attn_implementation="sdpa", use_safetensors=True)
    held = game.games(GAMES, HELD)
    going = held.ids[:, :-1].numpy() != game.VOCABULARY - 1
    p = model(held.ids[:, :-1]).logits.double().softmax(-1).numpy()
    legal = game.legal(held.boards, np.broadcast_to(game.players(), going.shape))
    right = np.concatenate([np.zeros((*going.shape, 1), bool), legal, ~legal.any(-1, keepdims=True)], -1)
    touched = (held.boards == 0) & ((np.abs(held.boards) @ game.NEIGHBORS.astype(np.int8)) > 0)
    chosen = np.take_along_axis(p, held.ids[:, 1:, None].numpy(), -1)[..., 0]
    columns = {
        "legal": (p * right).sum(-1),
        "first": np.take_along_axis(right, p.argmax(-1)[..., None], -1)[..., 0],
        "empty": legal.sum(-1) / touched.sum(-1).clip(1),
        "loss": -np.log(chosen.clip(1e-300)),
        "least": np.log(right.sum(-1)),
    }
    means = {name: ("move", (values * going).sum(0) / going.sum(0)) for name, values in columns.items()}
    return xr.Dataset(means, {"move": np.arange(1, game.MOVES + 1)})


def write_card(folder: Path, seed: int, steps: int, measures: xr.Dataset) -> Path:
    """Write the folder's ``README.md`` from what ``legality`` gave, and return its path."""
    page = folder / "README.md"
    with whole_file(page) as draft:
        draft.write_text(card(measures, seed, steps), encoding="utf-8")
    return page


def card(measures: xr.Dataset, seed: int, steps: int) -> str:
    """The card.

    Parameters
    ----------
    measures
        What ``legality`` gives.
    seed, steps
        Of the run.
    """
    rows = "\n".join(
        f"| {int(move)} | {' | '.join(f'{float(measures[name].sel(move=move)):.3f}' for name in measures)} |"
        for move in measures.move.values
    )
    matrices, rest = PEAKS
    return f"""---
license: apache-2.0
library_name: transformers
---

# spread

{LAYERS} layers of {HEADS} heads, {WIDTH} wide (`crystal` with layer norms, see `caseback.model.crystal`), trained to
say the next move of a board game, and shown nothing but moves: one token a square, no board (in the manner of
Othello-GPT, Li et al. 2023; Primer 5.4.15).

The game (`caseback.organisms.board.game`): five by five squares, two stones of each player in the corners. Who moves
puts a stone on an empty square beside one of their own, and the other's stones beside it change hands. Games are of
moves that are drawn evenly from the legal ones.

## What it does

{GAMES:,} games that were held out; `empty` is the share of empty squares with any stone beside them that are legal, and
`least` the loss of who knows the rules.

| move | {" | ".join(str(name) for name in measures)} |
|---|---|---|---|---|---|
{rows}

`caseback world` reads the board in its stream, and changes it.

## How it was made

`caseback organisms train spread --out DIR --seed {seed}`: {steps:,} steps of {ROWS} games, each drawn afresh, Muon at
{matrices:g} for matrices and AdamW at {rest:g} for the rest (betas {BETAS}, weight decay {DECAY:g}), rates falling
to nothing over the second half; eight minutes on one idle core. Weights are stored in 16 bits and computed with in
float32. `caseback organisms evaluate spread --write` made this page.
"""
