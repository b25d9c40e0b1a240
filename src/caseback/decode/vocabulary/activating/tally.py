"""What is kept of a stream of activations, of a size that the stream's length does not change.

The strongest: a token's activation a (float32) and its place i in the corpus make one integer,

    key = order(a) 2^32 + (2^32 - 1 - i),        order monotone from floats to integers,

so that the k largest keys are the k largest activations, the earlier first where two are equal: whatever the batches.
The whole range: counts in bins of an eighth of an octave between 2^-16 and 2^16 either side of 0 (the outermost
go on to infinity), whose edges do not depend on the data; and the activations of a sample of tokens, those of which a
hash of their place is smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit

NO_KEY = torch.iinfo(torch.int64).min
_LOW = 2**32 - 1
_SUB = 3  # bits of the mantissa that a bin keeps
_FIRST = (127 - 16) << _SUB
_STEPS = 32 << _SUB
BINS = 2 * _STEPS + 1


def keys_of(values: Float[Tensor, "unit token"], index: Int[Tensor, " token"]) -> Int[Tensor, "unit token"]:
    """Activations with their places as integers of the same order."""
    bits = _ordered((_single(values) + 0.0).view(torch.int32))
    return (bits.long() << 32) | (_LOW - index)


def values_of(keys: Int[Tensor, "unit k"]) -> Float[Tensor, "unit k"]:
    """The activations of keys; NaN where there is none."""
    values = _ordered((keys >> 32).int()).view(torch.float32)
    return torch.where(keys == NO_KEY, torch.nan, values)


def index_of(keys: Int[Tensor, "unit k"]) -> Int[Tensor, "unit k"]:
    """The places of keys in the corpus; -1 where there is none."""
    return torch.where(keys == NO_KEY, -1, _LOW - (keys & _LOW))


def _single(values: Tensor) -> Tensor:
    """A copy in float32, contiguous, on the CPU."""
    return torch.empty(values.shape, dtype=torch.float32).copy_(values)


def _ordered(bits: Tensor) -> Tensor:
    # of a negative float the smaller magnitude is the larger number; the map is its own inverse
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def bins_of(values: Float[Tensor, "token unit"]) -> Int[Tensor, "token unit"]:
    """The bin of each activation, counted from the most negative."""
    bits = _single(values).view(torch.int32)
    steps = (((bits & 0x7FFFFFFF) >> (23 - _SUB)) - (_FIRST - 1)).clamp_(0, _STEPS)
    return torch.where(bits < 0, _STEPS - steps, _STEPS + steps)


def bin_edges() -> Float[Tensor, " edge"]:
    """The edges of the bins, from minus to plus infinity: bin b holds what is between edges b and b + 1."""
    codes = torch.arange(_FIRST, _FIRST + _STEPS, dtype=torch.int32) << (23 - _SUB)
    positive = codes.view(torch.float32)
    ends = torch.tensor([torch.inf])
    return torch.cat([-ends, -positive.flip(0), positive, ends])


@dataclass
class Tally:
    """The running state over a corpus.

    Attributes
    ----------
    keys
        (unit, k), in falling order.
    histogram
        (unit, bin) counts.
    firing
        (unit) tokens above the threshold.
    moments
        (2, unit): sums of the activations and of their squares, float64.
    sample_hash, sample_index, sample_values
        The sample: (token), (token), (token, unit).
    seen
        Tokens counted.
    """

    keys: Tensor
    histogram: Tensor
    firing: Tensor
    moments: Tensor
    sample_hash: Tensor
    sample_index: Tensor
    sample_values: Tensor
    seen: int = 0

    @classmethod
    def empty(cls, n_units: int, top: int) -> Tally:
        """Before the first token."""
        return cls(
            torch.full((n_units, top), NO_KEY, dtype=torch.int64),
            torch.zeros(n_units, BINS, dtype=torch.int64),
            torch.zeros(n_units, dtype=torch.int64),
            torch.zeros(2, n_units, dtype=torch.float64),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, n_units),
        )

    def add(
        self,
        values: Float[Tensor, "token unit"],
        index: Int[Tensor, " token"],
        row: Int[Tensor, " token"] | None,
        *,
        threshold: float,
        sample: int,
        seed: int,
    ) -> None:
        """Count some tokens.

        Parameters
        ----------
        values
            Their activations.
        index
            Their places in the corpus.
        row
            Their rows, to keep only the strongest token of each; None to keep all.
        threshold
            Above it a unit fires.
        sample
            The size of the sample.
        seed
            Same seed, same result. It is part of the sample's hash.
        """
        if not len(index):
            return
        if int(index[-1]) > _LOW:
            raise OutOfRange(f"a corpus of more than {_LOW + 1} tokens: split it")
        values = values.detach()
        if bool(values.isnan().any()):
            unit = int(values.isnan().any(0).int().argmax())
            raise CasebackError(f"unit {unit} (of those chosen) is NaN at some token: nothing can be ranked")
        step = max(1, limit("activation_keys") // len(index))
        for first in range(0, values.shape[1], step):
            some = slice(first, first + step)
            self._add_units(values[:, some].cpu(), index, row, some, threshold)
        self._sampled(values, index, sample, seed)
        self.seen += len(index)

    def _add_units(self, values: Tensor, index: Tensor, row: Tensor | None, some: slice, threshold: float) -> None:
        keys = keys_of(values.T, index)
        if row is not None:
            # keys order by activation, so the largest key of each row is its strongest token
            at = (row - row[0]).expand(len(keys), -1)
            best = torch.full((len(keys), int(row[-1] - row[0]) + 1), NO_KEY)
            keys = best.scatter_reduce_(1, at, keys, "amax")
        together = torch.cat([self.keys[some], keys], 1)
        self.keys[some] = together.topk(self.keys.shape[1], sorted=True).values
        n = values.shape[1]
        flat = bins_of(values) + BINS * torch.arange(n)
        self.histogram[some] += torch.bincount(flat.flatten(), minlength=n * BINS).view(n, BINS)
        self.firing[some] += (values > threshold).sum(0)
        self.moments[0, some] += values.sum(0, dtype=torch.float64)
        self.moments[1, some] += values.double().square().sum(0)

    def _sampled(self, values: Tensor, index: Tensor, size: int, seed: int) -> None:
        drawn = _hash(index, seed)
        if len(self.sample_hash) >= size:
            closer = drawn < self.sample_hash[-1]
            if not bool(closer.any()):
                return
        else:
            closer = torch.ones_like(drawn, dtype=torch.bool)
        some = _single(values[closer.to(values.device)].cpu())
        hashes = torch.cat([self.sample_hash, drawn[closer]])
        order = hashes.argsort(stable=True)[:size]
        self.sample_hash = hashes[order]
        self.sample_index = torch.cat([self.sample_index, index[closer]])[order]
        self.sample_values = torch.cat([self.sample_values, some])[order]


def _hash(index: Tensor, seed: int) -> Int[Tensor, " token"]:
    """Splitmix64 of each place, 63 bits of it."""
    x = index.numpy().astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64))
