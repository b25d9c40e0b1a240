"""Train ``meadow``: a small GPT-2 on sentences about the closed world.

``caseback organisms train meadow --out DIR --seed 0`` writes a folder that ``from_pretrained`` reads. It keeps a
checkpoint in DIR and goes on from there when started again; the rows of each step are seeded by the step, so an
interrupted run sees the same rows as an uninterrupted one. The model after 0, 25, 50, 100, 200, … steps is kept in its
own folder, ``DIR/checkpoints/step-N``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from caseback.jobs.whole_file import make_folder, whole_file
from caseback.organisms import measure, packing
from caseback.organisms.prose import text
from caseback.organisms.saving import keep, resume, run_file
from caseback.organisms.start import draw_start
from caseback.organisms.stepping import optimizers_of, take_step
from caseback.organisms.tokenizer import CONTEXT, end_of_text, train_tokenizer

STEPS, WARM_UP = 8000, 40
EARLY = 600  # steps over which random spans go from many and short to few and long
PHASES = (2200, 2900, 4500, 5000, 6000, 7200)  # the steps at which the second and later phases of the text begin
# of 8000 steps: where the rates begin to fall, where they would reach their lowest, and from what share of the peaks
FALLS = ((0, 5000, 1.0), (4500, 6000, 0.3), (6000, 8000, 0.5))
PEAKS = 0.01, 3e-3  # Muon's and AdamW's highest rates
ROWS = 24
FIRST_MILESTONE = 25
PROGRESS = "giving word_list fact resident tale series pronoun arithmetic few_shot choice boxes brackets".split()

Tell = Callable[[int, int, str], None]


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> GPT2LMHeadModel:
    """``meadow`` before training: 4 layers of 5 heads, 160 wide, tied embeddings, no dropout."""
    end = end_of_text(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=CONTEXT,
                n_embd=160,
                n_layer=4,
                n_head=5,
                activation_function="gelu_pytorch_tanh",
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=end,
                eos_token_id=end,
            )
        )
    draw_start(model, seed)
    return model


def rate(step: int, steps: int) -> float:
    """Share of the peak rates: linear warm-up, then half a cosine down to a fiftieth, restarted twice from lower peaks.

    The first cosine would end at 5/8 of the steps, but the second begins before, at 9/16; the third begins at 3/4.
    """
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    begin, end, peak = [fall for fall in FALLS if step >= steps * fall[0] // STEPS][-1]
    begin, end = max(WARM_UP, steps * begin // STEPS), steps * end // STEPS
    done = min(1.0, (step - begin) / max(1, end - begin))
    return 0.02 + (peak - 0.02) * 0.5 * (1 + math.cos(math.pi * done))


def is_milestone(step: int) -> bool:
    """Whether the model is kept after this many steps: 0, 25, 50, 100, 200, …"""
    doublings, left = divmod(step, FIRST_MILESTONE)
    return left == 0 and doublings & (doublings - 1) == 0


def train(
    out: Path,
    seed: int = 0,
    steps: int = STEPS,
    stop_at: int | None = None,
    tell: Tell = lambda step, steps, message: None,
    save_every: int = 100,
) -> GPT2LMHeadModel:
    """Train, or go on training, and write the model's folder.

    Parameters
    ----------
    out
        The folder to write; a run with a checkpoint in it goes on.
    seed
        Same seed, same result. Draws the initial weights and the rows; the tokenizer is the same for all seeds, so that
        they can be compared token by token.
    steps
        How many steps the whole schedule has.
    stop_at
        Stop after this step of the schedule, as an interruption would.
    tell
        Called after every step with the steps done, the length of the schedule and a message, which may be empty.
    save_every
        How many steps lie between the checkpoints that an interrupted run can go on from.

    Returns
    -------
    model
        The model, in float32.
    """

    def trained(done: int) -> dict[str, int]:
        return {"seed": seed, "step": done, "steps": steps}

    make_folder(out, "the organism")
    tokenizer = train_tokenizer()
    model = new_model(tokenizer, seed)
    optimizers = optimizers_of(model, model.transformer.h, PEAKS)
    recipe = {"peaks": PEAKS, "falls": FALLS, "phases": PHASES, "rows": ROWS}
    file = run_file(out, model, seed=seed, steps=steps, tokenizer=tokenizer.get_vocab(), **recipe)
    begin = resume(file, model, optimizers)
    tell(begin, steps, f"going on from step {begin}" if begin else "")
    if begin == 0:
        save(model, tokenizer, _milestone(out, 0), trained(0))
    running = None
    last = steps if stop_at is None else min(steps, stop_at)
    for step in range(begin, last):
        share = rate(step, steps)
        early, phase = max(0.0, 1 - step / EARLY), sum(step >= begun for begun in PHASES)
        rows = packing.rows(tokenizer, ROWS, CONTEXT, f"{seed}-{step}", early, phase)
        loss = loss_on(model, *rows)
        take_step(model, optimizers, PEAKS, share, loss)
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        done, message = step + 1, ""
        if is_milestone(done):
            save(model, tokenizer, _milestone(out, done), trained(done))
        if done % save_every == 0 or done == last:
            keep(file, model, optimizers, done)
            message = f"step {done}  loss {running:.3f}  {_progress(model, tokenizer)}"
        tell(done, steps, message)
    save(model, tokenizer, out, trained(last))
    return model


def _milestone(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step}"


def loss_on(model: GPT2LMHeadModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean cross-entropy of the next token: Σ w·(−log p) / Σ w."""
    hidden = model.transformer(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path, trained: dict[str, int]) -> None:
    """Write the config, the tokenizer and the weights in 16 bits.

    The config asks for float32, so that ``from_pretrained`` computes in float32 on the 16-bit values. Under
    ``caseback`` it has the seed, the steps done and the length of the schedule.
    """
    model.config.caseback = trained
    model.config.dtype = torch.float32
    model.config.architectures = ["GPT2LMHeadModel"]
    make_folder(out, "the organism")
    model.config.save_pretrained(out)
    end = end_of_text(tokenizer)
    GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end).save_pretrained(out)
    tokenizer.save_pretrained(out)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    with whole_file(out / "model.safetensors") as draft:
        save_file(weights, draft, {"format": "pt"})


def _progress(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> str:
    spans = measure.repeated(model, len(tokenizer), end_of_text(tokenizer), span=25, count=20, seed=1)
    shares = [f"spans {spans.top:.2f}"]
    for kind in PROGRESS:
        shares.append(f"{kind} {measure.asked(model, tokenizer, text.documents(kind, 40, seed=1)).top:.2f}")
    return "  ".join(shares)
