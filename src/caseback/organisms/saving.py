"""Files of a training run: written whole or not at all, and a state from which an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from caseback.errors import CasebackError
from caseback.jobs.whole_file import whole_file


def write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole_file(path) as draft:
        save_file(tensors, draft, metadata)


def keep(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write the parameters, the optimizers' state and the steps done."""
    tensors = {f"weight.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            tensors |= {f"{key}|{names[id(parameter)]}": value for key, value in state.items()}
    write({**tensors, "done": torch.tensor(step)}, path, {})


def resume(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Read what ``keep`` wrote into a fresh model and fresh optimizers, and give the steps done: 0 without a file.

    Raises
    ------
    CasebackError
        Where the file is of another model.
    """
    if not path.exists():
        return 0
    tensors = load_file(path)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        kept = tensors.get(f"weight.{name}")
        if kept is None or kept.shape != parameter.shape:
            shape = tuple(parameter.shape)
            raise CasebackError(f"{str(path)!r} is of another model: it has no {name} of shape {shape}")
        parameter.data.copy_(kept)
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            ending = "|" + names[id(parameter)]
            optimizer.state[parameter] = {
                key.removesuffix(ending): value for key, value in tensors.items() if key.endswith(ending)
            }
    return int(tensors["done"])
