"""Hooks that a user has put on a model, which see other shapes where caseback does not run the model as it is.

``run`` and ``generate`` call the whole model, so a user's hooks act there as they do in the plain model. A sweep calls
layers on rows gathered from many variants, several runs go side by side in one batch, and a metric's logits may be
formed by themselves: a hook that looks at positions or prompts would then do something else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from caseback.errors import CasebackError
from caseback.model.anatomy.anatomy import Anatomy

_LIBRARIES = ("caseback", "transformers", "accelerate", "peft", "torch")


def hooked_by_user(anatomy: Anatomy, but: Collection[nn.Module | None] = ()) -> str | None:
    """The path of a module, ``but`` for some, with a hook that no library put there; None where there is none."""
    if any(map(_foreign, (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks))):
        return "every module"
    for module in anatomy.modules:
        if any(hooks and _foreign(hooks) for hooks in _hooks(module)) and module not in but:
            return next(name for name, part in anatomy.hf.named_modules() if part is module) or "the model"
    return None


def _hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return module._forward_pre_hooks, module._forward_hooks


def _foreign(hooks: dict[int, Any]) -> bool:
    return any(_home(hook).partition(".")[0] not in _LIBRARIES for hook in hooks.values())


def _home(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # what a functools.partial calls
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def expect_no_user_hooks(anatomy: Anatomy, what: str, *, called_plainly: Collection[nn.Module | None] = ()) -> None:
    """Refuse to do ``what`` under a user's hooks, but for those on modules that are called as a plain run calls them.

    Raises
    ------
    CasebackError
        Naming the module that has one.
    """
    path = hooked_by_user(anatomy, called_plainly)
    if path is not None:
        raise CasebackError(
            f"{path} has a forward hook of yours, and {what} calls modules on other rows than a plain run does: remove "
            "it, or give what it does as an edit (cb.Apply), which every technique knows; model.run keeps hooks"
        )


def drop_output_hooks(hf: nn.Module) -> None:
    """Take off the hooks with which transformers records hidden states, since no pickle holds them.

    It puts them on where a model is first asked for its hidden states or attentions, and again when it next is.
    """
    for module in hf.modules():
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__module__", None) == "transformers.utils.output_capturing":
                for table in (
                    module._forward_hooks,
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                ):
                    table.pop(key, None)
        if vars(module).get("_output_capturing_hooks_installed"):
            vars(module)["_output_capturing_hooks_installed"] = False
