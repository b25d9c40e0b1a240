"""Train ``meadow``: a small GPT-2 on sentences about the closed world.

``python -m caseback.organisms.train --out DIR --seed 0`` writes a folder that ``from_pretrained``
reads. It keeps a checkpoint in DIR and goes on from there when started again; the rows of each step
are seeded by the step, so an interrupted run sees the same rows as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from caseback.organisms import measure, packing, text
from caseback.organisms.muon import Muon
from caseback.organisms.start import sketch_induction
from caseback.organisms.tokenizer import CONTEXT, end_of_text, train_tokenizer

STEPS, WARM_UP = 1200, 40
PEAK, MATRIX_PEAK = 3e-3, 0.01  # AdamW's and Muon's
ROWS = 24
CHECKPOINT = "checkpoint.safetensors"


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> GPT2LMHeadModel:
    """``meadow`` before training: 4 layers of 5 heads, 160 wide, tied embeddings, no dropout."""
    torch.manual_seed(seed)
    end = end_of_text(tokenizer)
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
    sketch_induction(model, seed)
    return model


def rate(step: int, steps: int) -> float:
    """Share of the peak rates: linear warm-up, then half a cosine down to a fiftieth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def optimizers_of(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    kept = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in kept]
    adam = torch.optim.AdamW(others, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=MATRIX_PEAK), adam]


def train(
    out: Path, seed: int = 0, steps: int = STEPS, save_every: int = 100, stop_at: int | None = None
) -> GPT2LMHeadModel:
    """Train, or go on training, and write the model's folder.

    Parameters
    ----------
    out
        Folder to write; a checkpoint found there is continued.
    seed
        Of the initial weights, the tokenizer's text and the rows.
    steps
        Length of the whole schedule.
    save_every
        Steps between checkpoints.
    stop_at
        Stop after this step of the schedule, as an interruption would.

    Returns
    -------
    model
        In float32.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(seed=seed)
    model = new_model(tokenizer, seed)
    optimizers = optimizers_of(model)
    begin = _resume(out / CHECKPOINT, model, optimizers)
    started, running = time.time(), None
    last = steps if stop_at is None else min(steps, stop_at)
    for step in range(begin, last):
        share = rate(step, steps)
        for optimizer, peak in zip(optimizers, (MATRIX_PEAK, PEAK), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = share * peak
        loss = loss_on(model, *packing.rows(tokenizer, ROWS, CONTEXT, f"{seed}-{step}"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            pace = (time.time() - started) / (step + 1 - begin)
            print(f"step {step + 1}/{steps}  loss {running:.3f}  {pace:.2f} s a step", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == last:
            _keep(out / CHECKPOINT, model, optimizers, step + 1)
            print(f"  {_progress(model, tokenizer)}", flush=True)
    save(model, tokenizer, out)
    return model


def loss_on(model: GPT2LMHeadModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, weighted: Σ w·(−log p) / Σ w."""
    hidden = model.transformer(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write config, tokenizer and the weights in 16 bits.

    The config says float32, so that ``from_pretrained`` computes in float32 on the 16-bit values.
    """
    model.config.dtype = torch.float32
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(out)
    end = end_of_text(tokenizer)
    GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end).save_pretrained(out)
    tokenizer.save_pretrained(out)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    _write(weights, out / "model.safetensors", {"format": "pt"})


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    draft = path.with_suffix(".part")
    save_file(tensors, draft, metadata)
    draft.chmod(0o644)
    os.replace(draft, path)


def _keep(path: Path, model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    tensors = {f"weight.{n}": p.detach() for n, p in model.named_parameters()}
    names = {id(p): n for n, p in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            tensors |= {f"{key}.{names[id(parameter)]}": value for key, value in state.items()}
    tensors["done"] = torch.tensor(step)
    _write(tensors, path, {})


def _resume(path: Path, model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path)
    names = {id(p): n for n, p in model.named_parameters()}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names[id(parameter)]
            parameter.data.copy_(tensors[f"weight.{name}"])
            optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"]
                for key in ("momentum", "step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
    print(f"going on from step {int(tensors['done'])}", flush=True)
    return int(tensors["done"])


def _progress(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> str:
    spans = measure.repeated(model, len(tokenizer), end_of_text(tokenizer), span=25, count=20, seed=1)
    shares = [f"spans {spans.top:.2f}"]
    for kind in ("giving", "word_list", "fact", "agreement", "series", "pronoun", "story"):
        score = measure.asked(model, tokenizer, text.documents(kind, 50, seed=1))
        shares.append(f"{kind} {score.top:.2f}/{score.over_foil:.2f}")
    return "  ".join(shares)


def main() -> None:
    """Command line: train, or go on training."""
    parser = argparse.ArgumentParser(description="Train the bundled model meadow.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="length of the schedule")
    parser.add_argument("--stop-at", type=int, default=None, help="stop early after this step")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.out, options.seed, options.steps, stop_at=options.stop_at)


if __name__ == "__main__":
    main()
