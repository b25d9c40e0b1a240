"""The induction run: two layers of attention on text that repeats itself, kept often around the phase change.

Bigrams are learned in the first few hundred steps; long after, within some two hundred steps, the model begins to look
back (Olsson et al. 2022). The run ends soon after: its text repeats spans of at most nine words, and a model that is
trained on forgets how to look back further.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from caseback.jobs.whole_file import make_folder
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.organisms.repeats import words
from caseback.organisms.repeats.measure import repeats
from caseback.organisms.saving import keep, resume, run_file, save_crystal
from caseback.organisms.start import SCALE, sinusoids
from caseback.organisms.stepping import BETAS, optimizers_of, take_step

STEPS, WARM_UP = 1100, 50
PEAKS, DECAY = (0.02, 3e-3), 0.01
ROWS = 32
WIDTH, LAYERS, HEADS = 64, 2, 4
OF_POSITIONS = 32  # dimensions that positions start in, and tokens hardly do
MILESTONES = (0, 25, 50, 100, 200, 400, 600, 700, 800, 850, 900, 950, 1000, 1050, 1100)


def new_model(seed: int) -> CrystalForCausalLM:
    """The model before training: layer norms, tied embeddings, no MLP; positions start as sinusoids."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CrystalForCausalLM(
            CrystalConfig(
                vocab_size=words.VOCABULARY,
                max_position_embeddings=words.LENGTH,
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                intermediate_size=0,
                norm="layernorm",
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        body: Any = model.model  # a Module's attributes are untyped
        body.embed_tokens.weight.normal_(0, SCALE)[:, :OF_POSITIONS] *= 0.1
        body.embed_positions.weight.zero_()[:, :OF_POSITIONS] = SCALE * sinusoids(words.LENGTH, OF_POSITIONS)
        for layer in body.layers:
            own = layer.self_attn
            for projection in (own.q_proj, own.k_proj):
                projection.weight.normal_(0, 2 * WIDTH**-0.5)  # so that attention is not flat
            for projection in (own.v_proj, own.o_proj):
                projection.weight.normal_(0, 0.5 * WIDTH**-0.5)
    return model


def train(
    out: Path,
    seed: int = 0,
    steps: int = STEPS,
    stop_at: int | None = None,
    tell: Callable[[int, int, str], None] = lambda step, steps, message: None,
    save_every: int = 100,
) -> CrystalForCausalLM:
    """Train, or go on training, with a checkpoint at every one of ``MILESTONES``.

    Parameters
    ----------
    out
        The folder to write; an interrupted run in it goes on.
    seed
        Same seed, same result. Draws the weights and the rows; the chain of words is the same for all seeds.
    steps, stop_at
        How many steps the schedule has, and the step to stop at before its end.
    tell
        Called with the steps done, the length of the schedule and a message.
    save_every
        How many steps lie between the states that an interrupted run can go on from.
    """
    model, table = new_model(seed), words.chain(0)
    model.config._attn_implementation = "sdpa"
    optimizers = optimizers_of(model, model.model.layers, PEAKS, DECAY)
    make_folder(out, "the organism")
    recipe = (PEAKS, BETAS, DECAY, ROWS, WARM_UP)
    file = run_file(out, model, seed=seed, steps=steps, recipe=recipe)
    begin, last = resume(file, model, optimizers), min(steps, stop_at or steps)

    def save(folder: Path, step: int) -> None:
        save_crystal(model, words.tokenizer(), folder, {"seed": seed, "step": step, "words": words.VOCABULARY})

    if begin == 0:
        save(out / "checkpoints" / "step-0", 0)
    for done in range(begin + 1, last + 1):
        share = min(1.0, done / WARM_UP)
        ids = words.rows(table, ROWS, (seed, done - 1))
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        take_step(model, optimizers, PEAKS, share, loss)
        message = ""
        if done in MILESTONES:
            save(out / "checkpoints" / f"step-{done}", done)
        if done % save_every == 0 or done == last:
            keep(file, model, optimizers, done)
            first, second = repeats(model)
            message = f"step {done}  loss {loss.item():.3f}  random tokens {first:.2f}, once more {second:.2f}"
        tell(done, steps, message)
    save(out, last)
    return model
