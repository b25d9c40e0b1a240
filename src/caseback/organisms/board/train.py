"""The board run: a model that is shown nothing but random legal moves, one token a move (Li et al. 2023).

It is asked for the next move, which may be any legal one; to give each its probability it must know the board.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from caseback.jobs.whole_file import make_folder
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.board import game
from caseback.organisms.saving import keep, resume, run_file, save_crystal
from caseback.organisms.stepping import BETAS, optimizers_of, take_step

STEPS, WARM_UP, COOL_DOWN = 2400, 50, 0.5
PEAKS, DECAY = (0.02, 3e-3), 0.01
ROWS = 128
WIDTH, LAYERS, HEADS = 96, 4, 6
HELD = (2**31, 0)
"""The seed of games that are never trained on."""


def new_model(seed: int) -> CrystalForCausalLM:
    """The model before training."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CrystalForCausalLM(
            CrystalConfig(
                vocab_size=game.VOCABULARY,
                max_position_embeddings=game.MOVES + 1,
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                intermediate_size=4 * WIDTH,
                hidden_act="gelu",
                norm="layernorm",
                initializer_range=0.05,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        layers: Any = model.model.layers  # a Module's attributes are untyped
        for name, weight in layers.named_parameters():
            if name.endswith("proj.weight"):
                weight.normal_(0, (0.5 if "down" in name else 1.0) * WIDTH**-0.5)
    return model


def losses(model: CrystalForCausalLM, ids: Int[Tensor, "game pos"]) -> Tensor:
    """The mean loss of the moves, and of what says that there is none; nothing is asked behind a game's end."""
    wanted = ids[:, 1:].masked_fill(ids[:, :-1] == game.VOCABULARY - 1, -100)
    return torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits.mT, wanted)


def train(
    out: Path,
    seed: int = 0,
    steps: int = STEPS,
    stop_at: int | None = None,
    tell: Callable[[int, int, str], None] = lambda step, steps, message: None,
    save_every: int = 100,
) -> CrystalForCausalLM:
    """Train, or go on training.

    Parameters
    ----------
    out
        The folder to write; an interrupted run in it goes on.
    seed
        Same seed, same result. Draws the weights and the games.
    steps, stop_at
        How many steps the schedule has, and the step to stop at before its end.
    tell
        Called with the steps done, the length of the schedule and a message.
    save_every
        How many steps lie between the states that an interrupted run can go on from.
    """
    model = new_model(seed)
    model.config._attn_implementation = "sdpa"
    optimizers = optimizers_of(model, model.model.layers, PEAKS, DECAY)
    make_folder(out, "the organism")
    recipe = (PEAKS, BETAS, DECAY, ROWS, WARM_UP, COOL_DOWN)
    file = run_file(out, model, seed=seed, steps=steps, recipe=recipe)
    begin, last = resume(file, model, optimizers), min(steps, stop_at or steps)
    for done in range(begin + 1, last + 1):
        share = min(1.0, done / WARM_UP, (steps - done + 1) / (COOL_DOWN * steps))
        loss = losses(model, game.games(ROWS, (seed, done)).ids)
        take_step(model, optimizers, PEAKS, share, loss)
        message = ""
        if done % save_every == 0 or done == last:
            keep(file, model, optimizers, done)
            message = f"step {done}  loss {loss.item():.3f}"
        tell(done, steps, message)
    save_crystal(model, game.tokenizer(), out, {"seed": seed, "step": last, "squares": len(game.SQUARES)})
    return model
