"""Activations that transformers spells out in tensor operations, replaced by the one kernel that computes the same.

GPT-2's GELU, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), is eight passes over the widest array of a layer: a
sixth of a sweep's time. In float32 and float64 the kernel differs from them by rounding alone. Narrower types round
after each of the eight passes, so there the model's own operations stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.running.passing import hooked


def _gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


@contextmanager
def fused(anatomy: Anatomy) -> Iterator[None]:
    """Within the context, such activations of the layers are one kernel."""
    wide = next(anatomy.hf.parameters()).dtype in (torch.float32, torch.float64)
    shared_once = {
        id(m): m
        for part in anatomy.layers
        for m in part.layer.modules()
        if wide and type(m) is NewGELUActivation and "forward" not in vars(m)
    }
    with hooked() as hooks:
        for module in shared_once.values():  # GPT-1's layers have one activation between them
            hooks.in_place_of(module, _gelu)
        yield
