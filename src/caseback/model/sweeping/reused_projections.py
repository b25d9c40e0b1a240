"""Queries, keys and values that an earlier run has formed, looked up where a layer's input is still the same.

A suffix enters a layer with the clean stream at all positions but the edited ones, and an edit behind the projections
(of z, a head, the MLP) changes none of them: 3 of the 12 d_model^2 multiply-adds of a GPT-2 layer are then known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.running.edit_values import on
from caseback.model.running.passing import hooked

Outputs = dict[nn.Module, Tensor]
"""What a layer's projections gave, (batch, pos, d_out) each."""


def projections(part: LayerParts) -> set[nn.Module]:
    """The modules of a layer that form queries, keys and values from its input."""
    return {p.module for p in (part.q, part.k, part.v) if p is not None}


@contextmanager
def recorded_projections(anatomy: Anatomy) -> Iterator[list[Outputs]]:
    """What each layer's projections give in a run inside the context."""
    outputs: list[Outputs] = [{} for _ in anatomy.layers]

    def keep(mine: Outputs) -> Callable[[nn.Module, tuple, Tensor], None]:
        def hook(module: nn.Module, _: tuple, out: Tensor) -> None:
            # Some models change a projection's output in place.
            mine[module] = out.clone()

        return hook

    with hooked() as hooks:
        for part, mine in zip(anatomy.layers, outputs, strict=True):
            for module in projections(part):
                hooks.after(module, keep(mine))
        yield outputs


@contextmanager
def looked_up(
    known: Outputs,
    example: Int[np.ndarray, " row"],
    column: Int[np.ndarray, " row"],
    here: Bool[np.ndarray, " row"],
    width: int,
) -> Iterator[None]:
    """Within the context, projections of (1, row, d_model) look up the rows marked in ``here``, compute the others."""
    old, new = np.flatnonzero(here), np.flatnonzero(~here)
    if not len(old) or not known:
        yield
        return
    place = np.empty(len(here), dtype=np.int64)
    place[old], place[new] = np.arange(len(old)), len(old) + np.arange(len(new))
    numbers = np.concatenate([example[old] * width + column[old], new, place])
    at, rest, back = on(next(iter(known.values())), numbers).split([len(old), len(new), len(here)])

    inputs: list[tuple[Tensor, Tensor]] = []  # by the projections that have yet to come: an input, and its other rows

    def computed(x: Tensor) -> Tensor:
        """The rows of an input that must be computed, picked once for all of a layer's projections."""
        if not inputs or inputs[-1][0] is not x:
            inputs[:] = [(x, x[:, rest])] * len(known)
        return inputs.pop()[1]

    def in_part(module: nn.Module) -> Callable[[Tensor], Tensor]:
        own, outputs = module.forward, known[module]

        def forward(x: Tensor) -> Tensor:
            if x.shape[:-1] != (1, len(here)):
                return own(x)
            out = outputs.flatten(0, 1)[at][None]
            return torch.cat([out, own(computed(x))], 1)[:, back] if len(new) else out

        return forward

    with hooked() as hooks:
        for module in known:
            hooks.in_place_of(module, in_part(module))
        yield
