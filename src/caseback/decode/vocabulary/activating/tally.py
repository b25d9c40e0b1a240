"""What is kept of a stream of activations, of a size that the stream's length does not change.

The strongest: the largest keys (``stream.tables.ordered_keys``) of a token's activation and its place. The whole
range: counts in bins of an eighth of an octave between 2^-16 and 2^16 either side of 0 (the outermost go on to
infinity), whose edges do not depend on the data; and the activations of a sample of tokens, those of which a hash of
their place is smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.stream.tables.magnitude_bins import MagnitudeBins, single
from caseback.stream.tables.ordered_keys import NO_KEY, expect_places, keys_of
from caseback.stream.tables.sampled_tokens import hash_of

EIGHTHS = MagnitudeBins(low=-16, octaves=32, sub=3)


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
            torch.zeros(n_units, EIGHTHS.n, dtype=torch.int64),
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
        expect_places(index)
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
        flat = EIGHTHS.of(values) + EIGHTHS.n * torch.arange(n)
        self.histogram[some] += torch.bincount(flat.flatten(), minlength=n * EIGHTHS.n).view(n, EIGHTHS.n)
        self.firing[some] += (values > threshold).sum(0)
        self.moments[0, some] += values.sum(0, dtype=torch.float64)
        self.moments[1, some] += values.double().square().sum(0)

    def _sampled(self, values: Tensor, index: Tensor, size: int, seed: int) -> None:
        drawn = hash_of(index, seed)
        if len(self.sample_hash) >= size:
            closer = drawn < self.sample_hash[-1]
            if not bool(closer.any()):
                return
        else:
            closer = torch.ones_like(drawn, dtype=torch.bool)
        some = single(values[closer.to(values.device)].cpu())
        hashes = torch.cat([self.sample_hash, drawn[closer]])
        order = hashes.argsort(stable=True)[:size]
        self.sample_hash = hashes[order]
        self.sample_index = torch.cat([self.sample_index, index[closer]])[order]
        self.sample_values = torch.cat([self.sample_values, some])[order]
