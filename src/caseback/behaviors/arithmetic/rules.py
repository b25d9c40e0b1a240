"""Rules that pairs of operands may satisfy, and how far an order of pairs follows them (PRIMER 5.4.10).

    share(order, h) = |first k pairs of the order that satisfy h| / k,    k = |pairs that satisfy h|
    score(order, h) = share - k / pairs                                    0 on average for a random order

x is the first operand, the second, or the result: x in a range, x mod n = m, a last or tens digit; or both are equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST = 4
"""Pairs that satisfy a rule."""
MODULI = range(2, 10)
PARTS = 2, 4, 8
"""What share of all values a range has: one of so many parts."""


def rules(
    a: Int[np.ndarray, " pair"],
    b: Int[np.ndarray, " pair"],
    result: Int[np.ndarray, " pair"],
    first: Bool[np.ndarray, " pair"],
) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs satisfy each rule, (pair,) by name, where enough of either half do; of equal rules the first."""
    distinct: dict[bytes, tuple[str, Bool[np.ndarray, " pair"]]] = {}
    for name, mask in every_rule(a, b, result):
        halves = [mask[half] for half in (first, ~first)]
        if all(LEAST <= some.sum() <= len(some) - LEAST for some in halves):
            distinct.setdefault(mask.tobytes(), (name, mask))
    return dict(distinct.values())


def every_rule(
    a: Int[np.ndarray, " pair"], b: Int[np.ndarray, " pair"], result: Int[np.ndarray, " pair"]
) -> Iterator[tuple[str, Bool[np.ndarray, " pair"]]]:
    """Names of rules, and which pairs satisfy each."""
    yield "a = b", a == b
    for name, x in (("a", a), ("b", b), ("result", result)):
        low, high = int(x.min()), int(x.max())
        for parts in PARTS:
            width = max(2, -(-(high - low + 1) // parts))
            for start in range(low, high + 1, max(1, width // 2)):
                end = min(high, start + width - 1)
                yield f"{name} in {start} to {end}", (start <= x) & (x <= end)
        for n in MODULI:
            for m in range(n):
                yield f"{name} mod {n} = {m}", x % n == m
        for digit in range(10):
            yield f"{name} ends in {digit}", x % 10 == digit
            yield f"{name} has tens {digit}", (x >= 10) & (x // 10 % 10 == digit)


def shares(place: Int[Tensor, "order pair"], masks: Bool[Tensor, "heuristic pair"]) -> Float[Tensor, "heuristic order"]:
    """The share of the first k pairs that satisfy each rule, k being how many do, from pairs' places, 0 first."""
    support = masks.sum(1)
    out = torch.empty(len(masks), len(place), dtype=torch.float64)
    for k in support.unique().tolist():  # rules of one size share what counts as first
        alike = support == k
        out[alike] = masks[alike].double() @ (place < k).double().T / k
    return out


def places(values: Float[Tensor, "order pair"], rng: np.random.Generator) -> Int[Tensor, "order pair"]:
    """Each pair's place by its value, the largest first; equal values, as where a neuron is silent, at random."""
    mixed = torch.from_numpy(rng.permutation(values.shape[1]))
    order = mixed[values[:, mixed].argsort(dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).contiguous())
