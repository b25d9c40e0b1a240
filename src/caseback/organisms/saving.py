"""The state that an interrupted training run goes on from: parameters, the optimizers' state, the steps done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig

from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.crystal import CrystalForCausalLM

RESUME = "resume.npz"


def run_file(out: Path, model: nn.Module, **options: Any) -> Checkpoint:
    """The checkpoint of a run in its folder, which depends on the initial parameters and the options."""
    return Checkpoint(
        out / RESUME,
        {"start": model, "options": options},
        what="state of a training run",
        other="is of another model or another training run",
    )


def save_crystal(model: CrystalForCausalLM, tokenizer: Any, out: Path, settings: dict[str, int]) -> None:
    """Write the config, the tokenizer and the weights in 16 bits; the config asks for float32 computation."""
    make_folder(out, "the organism")
    model.config.caseback = settings
    model.config.dtype = torch.float32
    model.config.architectures = ["CrystalForCausalLM"]
    model.config.save_pretrained(out)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0).save_pretrained(out)
    tokenizer.save_pretrained(out)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    weights = {n: w.detach().to(torch.float16).contiguous() for n, w in model.state_dict().items() if n not in tied}
    with whole_file(out / "model.safetensors") as draft:
        save_file(weights, draft, {"format": "pt"})


def keep(file: Checkpoint, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write the parameters, the optimizers' state and the number of steps done."""
    tensors = {f"weight.{name}": parameter for name, parameter in model.named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            tensors |= {f"{key}|{names[id(parameter)]}": value for key, value in state.items()}
    file.write(tensors, step=step)


def resume(file: Checkpoint, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Read what ``keep`` wrote into a fresh model and fresh optimizers; returns the steps done, 0 without a file.

    Raises
    ------
    LoadError
        If the file is of another run, or damaged.
    """
    if (saved := file.read()) is None:
        return 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.data.copy_(saved.tensors[f"weight.{name}"])
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            ending = "|" + names[id(parameter)]
            optimizer.state[parameter] = {
                key.removesuffix(ending): value for key, value in saved.tensors.items() if key.endswith(ending)
            }
    return saved.state["step"]
