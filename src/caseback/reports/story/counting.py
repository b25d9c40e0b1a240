"""How much was computed, in plain forwards of one prompt: tokens through layers, by tokens of the prompt times layers.

Backward passes are not counted; each costs about two forwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from caseback.model.running.model import Model


@dataclass
class Work:
    """Tokens through layers so far, and how many a plain forward of the prompt has."""

    plain: int
    rows: int = 0

    @property
    def forwards(self) -> float:
        """As many plain forwards."""
        return self.rows / self.plain


@contextmanager
def counted(model: Model, n_tokens: int) -> Iterator[Work]:
    """Count what passes through the model's layers in a block; the model itself is not touched."""
    work = Work(n_tokens * model.n_layers)
    layers = {id(parts.layer) for parts in model.anatomy.layers}

    def count(module: object, inputs: tuple[object, ...]) -> None:
        if id(module) in layers and inputs and isinstance(inputs[0], Tensor):
            work.rows += inputs[0].shape[:-1].numel()

    handle = register_module_forward_pre_hook(count)
    try:
        yield work
    finally:
        handle.remove()
