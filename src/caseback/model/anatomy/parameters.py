"""A module's parameters, also those that accelerate keeps elsewhere while their module does not run.

Offloading leaves parameters without numbers (on torch's ``meta`` device) and a hook on each module, which knows where
the numbers are, in memory or on disk, and brings them for the module's own forward pass.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from caseback.errors import AnatomyError


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A parameter with its numbers, None where the module has none of this name.

    Raises
    ------
    AnatomyError
        Where the numbers are nowhere: the model was made on the meta device.

    Examples
    --------
    >>> parameter(nn.Linear(2, 3, bias=False), "bias") is None
    True
    """
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    hook = _keeper(module)
    if hook is None:
        raise AnatomyError(_NOWHERE.format(name=name, kind=type(module).__name__))
    return hook.weights_map[name].to(device=hook.execution_device, dtype=value.dtype)


def expect_numbers(model: nn.Module) -> None:
    """Refuse a model that was made on the meta device and never given its weights.

    Raises
    ------
    AnatomyError
        Naming a parameter that has no numbers.
    """
    for path, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            if value.is_meta and _keeper(module) is None:
                raise AnatomyError(_NOWHERE.format(name=f"{path}.{name}", kind=type(model).__name__))


_NOWHERE = "{name} of a {kind} is on the meta device, without numbers: load the model with its weights"


def _keeper(module: nn.Module) -> Any:
    """Accelerate's hook that has a module's parameters, one among several or by itself."""
    hook = getattr(module, "_hf_hook", None)
    each = [hook, *getattr(hook, "hooks", ())]
    return next((hook for hook in each if getattr(hook, "weights_map", None) is not None), None)
