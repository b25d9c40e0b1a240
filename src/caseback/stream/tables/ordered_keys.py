"""Activations with their places as integers of the same order, so that the strongest do not depend on batches.

    key = order(a) 2^32 + (2^32 - 1 - i),        order monotone from floats to integers,

for a token's activation a (float32) and its place i in the corpus: the k largest keys are the k largest activations,
the earlier first where two are equal.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.stream.tables.magnitude_bins import single

NO_KEY = torch.iinfo(torch.int64).min
_LOW = 2**32 - 1


def keys_of(values: Float[Tensor, "*any token"], index: Int[Tensor, "*any token"]) -> Int[Tensor, "*any token"]:
    """Activations with their places as integers of the same order."""
    bits = _ordered((single(values) + 0.0).view(torch.int32))
    return (bits.long() << 32) | (_LOW - index)


def values_of(keys: Int[Tensor, "unit k"]) -> Float[Tensor, "unit k"]:
    """The activations of keys; NaN where there is none."""
    values = _ordered((keys >> 32).int()).view(torch.float32)
    return torch.where(keys == NO_KEY, torch.nan, values)


def index_of(keys: Int[Tensor, "unit k"]) -> Int[Tensor, "unit k"]:
    """The places of keys in the corpus; -1 where there is none."""
    return torch.where(keys == NO_KEY, -1, _LOW - (keys & _LOW))


def expect_places(index: Int[Tensor, " token"]) -> None:
    """Refuse places that a key has no room for."""
    if len(index) and int(index[-1]) > _LOW:
        raise OutOfRange(f"a corpus of more than {_LOW + 1} tokens: split it")


def _ordered(bits: Tensor) -> Tensor:
    # of a negative float the smaller magnitude is the larger number; the map is its own inverse
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
