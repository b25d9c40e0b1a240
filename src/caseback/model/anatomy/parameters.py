"""A module's parameters, also those that accelerate keeps elsewhere while their module does not run.

Offloading leaves parameters without numbers (on torch's ``meta`` device) and a hook on each module, which knows where
the numbers are, in memory or on disk, and brings them for the module's own forward pass. What is divided among
processes (a ``DTensor``: tensor parallel, or sharded by FSDP) is refused: each process would hold some of the heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caseback.errors import AnatomyError


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter with its numbers, None where the module has none of this name.

    Raises
    ------
    AnatomyError
        Where the numbers are nowhere (the model was made on the meta device), or divided among processes.

    Examples
    --------
    >>> parameter(nn.Linear(2, 3, bias=False), "bias") is None
    True
    """
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        return value
    expect_undivided(value, name, module)
    if not value.is_meta:
        return value
    hook = _keeper(module)
    if hook is None:
        raise AnatomyError(_NOWHERE.format(name=name, kind=type(module).__name__))
    return hook.weights_map[name].to(device=hook.execution_device, dtype=value.dtype)


def expect_numbers(model: nn.Module) -> None:
    """Refuse a model that was made on the meta device and never given its weights, or is divided among processes.

    Raises
    ------
    AnatomyError
        Naming a parameter that has no numbers, or only some of them.
    """
    for path, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            where = f"{path}.{name}" if path else name
            expect_undivided(value, where, model)
            if value.is_meta and _keeper(module) is None:
                raise AnatomyError(_NOWHERE.format(name=where, kind=type(model).__name__))


def expect_own_numbers(model: nn.Module, what: str) -> None:
    """Refuse a model whose parameters are no numbers in memory: packed by quantization, or kept elsewhere.

    Parameters
    ----------
    model
        The model, or a part of it.
    what
        What changes them, or goes through them as they are stored, for the message.

    Raises
    ------
    AnatomyError
        Naming the first such parameter.

    Examples
    --------
    >>> expect_own_numbers(nn.Linear(2, 3), "training")
    >>> packed = nn.Module()
    >>> packed.weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.int8), requires_grad=False)
    >>> expect_own_numbers(packed, "training")
    Traceback (most recent call last):
    caseback.errors.AnatomyError: training needs plain weights, and weight (Module) is quantized: ...
    """
    for path, module in model.named_modules():
        if hasattr(module, "base_layer"):
            continue  # what an adapter wraps comes by itself
        for name, value in module.named_parameters(recurse=False):
            if value.is_meta:
                raise AnatomyError(_not_plain(what, module, path, name, "offloaded", "offloading"))
            if not is_plain(value):
                raise AnatomyError(_not_plain(what, module, path, name, "quantized", "quantization"))
        if holds_codes(module):
            raise AnatomyError(_not_plain(what, module, path, "weight", "quantized", "quantization"))


def _not_plain(what: str, module: nn.Module, path: str, name: str, why: str, without: str) -> str:
    where = f"{path}.{name}" if path else name
    return (
        f"{what} needs plain weights, and {where} ({type(module).__name__}) is {why}: load the model without {without}"
    )


def holds_codes(module: nn.Module) -> bool:
    """Whether a module keeps codes beside, or in place of, a weight: GPTQ's, AWQ's or compressed-tensors'."""
    return any(hasattr(module, name) for name in ("qweight", "weight_packed"))


def is_plain(value: Tensor) -> bool:
    """Whether a tensor holds plain numbers, of two bytes at least: no codes, and no class that packs them.

    Examples
    --------
    >>> is_plain(torch.zeros(2)), is_plain(torch.zeros(2, dtype=torch.int8))
    (True, False)
    """
    return type(value) in (Tensor, nn.Parameter) and value.is_floating_point() and value.element_size() > 1


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: the device of its weights, or the one that accelerate brings them to."""
    for inner in module.modules():
        hook = _keeper(inner)
        if hook is not None:
            return torch.device(hook.execution_device)
        for tensor in (*inner.parameters(recurse=False), *inner.buffers(recurse=False)):
            return tensor.device
    return torch.device("cpu")


def expect_undivided(value: Tensor, name: str, module: nn.Module) -> None:
    """Refuse a parameter of which this process holds a part."""
    if hasattr(value, "device_mesh") and hasattr(value, "placements"):
        raise AnatomyError(
            f"{name} of a {type(module).__name__} is a {type(value).__name__}, divided among processes (tensor "
            "parallel or FSDP): expected a whole model in one process; load it without tp_plan, on several devices by "
            "device_map='auto'"
        )


_NOWHERE = "{name} of a {kind} is on the meta device, without numbers: load the model with its weights"


def _keeper(module: nn.Module) -> Any:
    """Accelerate's hook that has a module's parameters, one among several or by itself."""
    hook = getattr(module, "_hf_hook", None)
    each = [hook, *getattr(hook, "hooks", ())]
    return next((hook for hook in each if getattr(hook, "weights_map", None) is not None), None)
