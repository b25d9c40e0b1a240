"""Which keys each query may look at: what attention without any preference would be spread over.

    uniform a(i, j) = [j allowed for i] / (number of keys allowed for i)

The mask is the one that the model hands to its attention for one row without padding, so that windows, chunks and
families with rules of their own need not be known here. A family's learned sink is no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.running.attention import attending, masked, unmasked
from caseback.model.running.passing import undisturbed
from caseback.model.running.undo import as_found

_known: WeakKeyDictionary[Anatomy, list[Tensor]] = WeakKeyDictionary()


def allowed_keys(anatomy: Anatomy, width: int) -> list[Bool[Tensor, "query key"]]:
    """Each layer's allowed keys in a row of so many tokens; layers with the same have the same tensor.

    Parameters
    ----------
    anatomy
        The model's anatomy.
    width
        Tokens of a row. What is allowed among the first tokens does not depend on how many follow.
    """
    known = _known.get(anatomy)
    if known is None or len(known[0]) < width:
        known = _known[anatomy] = _shared(_masks(anatomy, width))
    corners = {id(mask): mask[:width, :width] for mask in known}
    return [corners[id(mask)] for mask in known]


def distinct(masks: Sequence[Tensor]) -> dict[int, tuple[Tensor, list[int]]]:
    """Each mask that differs from the others, with the layers that have it."""
    by_mask: dict[int, tuple[Tensor, list[int]]] = {}
    for layer, mask in enumerate(masks):
        by_mask.setdefault(id(mask), (mask, []))[1].append(layer)
    return by_mask


def _shared(masks: list[Tensor]) -> list[Tensor]:
    unlike: list[Tensor] = []
    shared = []
    for mask in masks:
        same = next((other for other in unlike if torch.equal(other, mask)), None)
        if same is None:
            unlike.append(mask)
        shared.append(mask if same is None else same)
    return shared


@as_found
def _masks(anatomy: Anatomy, width: int) -> list[Tensor]:
    seen: dict[int, Tensor] = {}

    def attender(layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **how: Any) -> Tensor:
        none = torch.zeros(1, 1, q.shape[2], k.shape[2], dtype=q.dtype, device=q.device)
        seen[layer] = unmasked(masked(none, mask))[0].any(0)
        return v.new_zeros(len(q), q.shape[2], q.shape[1], v.shape[3])

    with ExitStack() as stack:
        stack.enter_context(undisturbed(anatomy, grad=False))
        stack.enter_context(attending(anatomy, attender))
        anatomy.hf(input_ids=torch.ones(1, width, dtype=torch.long, device=anatomy.device), use_cache=False)
    return [seen[layer] for layer in range(anatomy.n_layers)]
