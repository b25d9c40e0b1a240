"""The grokking run: full-batch AdamW with strong weight decay, long after the training pairs are known by heart.

Nanda et al. 2023: learning rate 1e-3, weight decay 1, betas (0.9, 0.98), 30 % of the pairs of p = 113, 40,000 steps.
Here p is smaller, so that the run takes minutes, and a larger share of pairs makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.crystal import CrystalForCausalLM
from caseback.organisms.modular import addition
from caseback.organisms.saving import keep, resume, run_file

STEPS, SHARE, WARM_UP = 10_000, 0.5, 10
RATE, DECAY, BETAS = 1e-3, 1.0, (0.9, 0.98)
MILESTONES = (0, 100, 200, 500, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000)


def train(
    out: Path,
    seed: int = 0,
    steps: int = STEPS,
    stop_at: int | None = None,
    tell: Callable[[int, int, str], None] = lambda step, steps, message: None,
    p: int = addition.PRIME,
    share: float = SHARE,
    save_every: int = 1000,
) -> CrystalForCausalLM:
    """Train, or go on training, with a checkpoint at every one of ``MILESTONES``.

    Parameters
    ----------
    out
        The folder to write; an interrupted run in it goes on.
    seed
        Same seed, same result. Draws the weights and which pairs are trained on.
    steps, stop_at
        How many steps the schedule has, and the step to stop at before its end.
    tell
        Called with the steps done, the length of the schedule and a message.
    p, share
        The modulus, and the share of its p² pairs to train on.
    save_every
        How many steps lie between the states that an interrupted run can go on from.
    """
    model = addition.new_model(p, seed)
    trained, held = addition.split(p, share, seed)
    ids, right = addition.all_pairs(p), addition.answers(p)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY, betas=BETAS, fused=True)
    make_folder(out, "the organism")
    settings = {"seed": seed, "p": p, "share": share}
    file = run_file(out, model, **settings, recipe=(RATE, DECAY, BETAS, WARM_UP))
    begin, last = resume(file, model, [optimizer]), min(steps, stop_at or steps)
    if begin == 0:
        save(model, out / "checkpoints" / "step-0", {**settings, "step": 0})
    for done in range(begin + 1, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, done / WARM_UP)
        loss = torch.nn.functional.cross_entropy(addition.last_logits(model, ids[trained]), right[trained])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        message = ""
        if done in MILESTONES:
            save(model, out / "checkpoints" / f"step-{done}", {**settings, "step": done})
        if done % save_every == 0 or done == last:
            keep(file, model, [optimizer], done)
            with torch.no_grad():
                best = addition.last_logits(model, ids[held]).argmax(-1)
            accuracy = (best == right[held]).double().mean().item()
            message = f"step {done}  loss {loss.item():.2e}  held-out accuracy {accuracy:.3f}"
        tell(done, steps, message)
    save(model, out, {**settings, "step": last})
    return model


def save(model: CrystalForCausalLM, out: Path, settings: dict) -> None:
    """Write the config, the tokenizer and the weights in 16 bits; the config asks for float32 computation."""
    make_folder(out, "the organism")
    model.config.caseback = settings
    model.config.dtype = torch.float32
    model.config.architectures = ["CrystalForCausalLM"]
    model.config.save_pretrained(out)
    GenerationConfig(pad_token_id=settings["p"]).save_pretrained(out)
    addition.tokenizer(settings["p"]).save_pretrained(out)
    weights = {n: w.detach().to(torch.float16).contiguous() for n, w in model.state_dict().items()}
    with whole_file(out / "model.safetensors") as draft:
        save_file(weights, draft, {"format": "pt"})
