"""What is kept of a stream of activations, of a size that the stream's length does not change: a table of ``stream``.

The strongest: the largest keys (``stream.tables.ordered_keys``) of a token's activation and its place. The whole
range: counts in bins of an eighth of an octave between 2^-16 and 2^16 either side of 0 (the outermost go on to
infinity), whose edges do not depend on the data; and the activations of a sample of tokens, those of which a hash of
their place is smallest. All of them merge: the strongest of two parts are among the strongest of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.vocabulary.activating.units import Units
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.magnitude_bins import MagnitudeBins, single
from caseback.stream.tables.ordered_keys import NO_KEY, expect_places, keys_of
from caseback.stream.tables.sampled_tokens import hash_of
from caseback.stream.tables.table import Seen, State, Table

EIGHTHS = MagnitudeBins(low=-16, octaves=32, sub=3)


@dataclass
class Tally:
    """What was counted over a corpus.

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
    counted
        Tokens counted, as a tensor.
    """

    keys: Tensor
    histogram: Tensor
    firing: Tensor
    moments: Tensor
    sample_hash: Tensor
    sample_index: Tensor
    sample_values: Tensor
    counted: Tensor

    @property
    def seen(self) -> int:
        """Tokens counted."""
        return int(self.counted)


@dataclass(frozen=True)
class UnitTally(Table):
    """The strongest tokens, the range and a sample of some units of one site.

    Attributes
    ----------
    units
        Which units.
    top
        How many tokens are kept for each unit.
    per_row
        Keep only the strongest token of each row.
    skip
        Positions at the beginning of every row that do not count.
    threshold
        Above it a unit fires.
    sample
        The size of the sample.
    seed
        Same seed, same result. It is part of the sample's hash.
    """

    units: Units
    top: int = 20
    per_row: bool = False
    skip: int = 0
    threshold: float = 0.0
    sample: int = 1000
    seed: int = 0

    name: ClassVar[str] = "activating"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("histogram", "firing", "moments", "counted"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return [self.units.site]

    def empty(self, model: Model) -> State:
        """Nothing: how many units there are shows with the first batch."""
        return {}

    def _begun(self, n_units: int) -> State:
        return {
            "keys": torch.full((n_units, self.top), NO_KEY, dtype=torch.int64),
            "histogram": torch.zeros(n_units, EIGHTHS.n, dtype=torch.int64),
            "firing": torch.zeros(n_units, dtype=torch.int64),
            "moments": torch.zeros(2, n_units, dtype=torch.float64),
            "sample_hash": torch.zeros(0, dtype=torch.int64),
            "sample_index": torch.zeros(0, dtype=torch.int64),
            "sample_values": torch.zeros(0, n_units),
            "counted": torch.zeros((), dtype=torch.int64),
        }

    def add(self, state: State, seen: Seen) -> None:
        values = self.units.of(seen.at(self.units.site)).detach()
        if not state:
            state.update(self._begun(values.shape[1]))
        counts = seen.marks.position >= self.skip
        values, index, row = values[counts], seen.index[counts].cpu(), seen.row[counts].cpu()
        if not len(index):
            return
        expect_places(index)
        if bool(values.isnan().any()):
            unit = int(values.isnan().any(0).int().argmax())
            raise CasebackError(f"unit {unit} (of those chosen) is NaN at some token: nothing can be ranked")
        step = max(1, limit("activation_keys") // len(index))
        for first in range(0, values.shape[1], step):
            some = slice(first, first + step)
            self._add_units(state, values[:, some].cpu(), index, row, some)
        self._add_to_sample(state, values, index)
        state["counted"] += len(index)

    def _add_units(self, state: State, values: Tensor, index: Tensor, row: Tensor, some: slice) -> None:
        keys = keys_of(values.T, index)
        if self.per_row:
            # keys order by activation, so the largest key of each row is its strongest token
            at = (row - row[0]).expand(len(keys), -1)
            best = torch.full((len(keys), int(row[-1] - row[0]) + 1), NO_KEY)
            keys = best.scatter_reduce_(1, at, keys, "amax")
        state["keys"][some] = _strongest(state["keys"][some], keys)
        n = values.shape[1]
        flat = EIGHTHS.of(values) + EIGHTHS.n * torch.arange(n)
        state["histogram"][some] += torch.bincount(flat.flatten(), minlength=n * EIGHTHS.n).view(n, EIGHTHS.n)
        state["firing"][some] += (values > self.threshold).sum(0)
        state["moments"][0, some] += values.sum(0, dtype=torch.float64)
        state["moments"][1, some] += values.double().square().sum(0)

    def _add_to_sample(self, state: State, values: Float[Tensor, "token unit"], index: Int[Tensor, " token"]) -> None:
        drawn = hash_of(index, self.seed)
        if len(state["sample_hash"]) >= self.sample:
            closer = drawn < state["sample_hash"][-1]
            if not bool(closer.any()):
                return
        else:
            closer = torch.ones_like(drawn, dtype=torch.bool)
        new = drawn[closer], index[closer], single(values[closer.to(values.device)].cpu())
        state.update(self._sampled(state, dict(zip(_SAMPLE, new, strict=True))))

    def _sampled(self, one: State, other: State) -> State:
        """Of two samples the tokens of the smallest hashes; of equal ones the earlier."""
        both = {name: torch.cat([one[name], other[name]]) for name in _SAMPLE}
        placed = both["sample_index"].argsort()
        order = placed[both["sample_hash"][placed].argsort(stable=True)][: self.sample]
        return {name: values[order] for name, values in both.items()}

    def merge(self, one: State, other: State) -> State:
        sums = {name: one[name] + other[name] for name in self.rules}
        return {**sums, "keys": _strongest(one["keys"], other["keys"]), **self._sampled(one, other)}


_SAMPLE = ("sample_hash", "sample_index", "sample_values")


def tally_of(state: State) -> Tally:
    """The state of a ``UnitTally`` under names."""
    return Tally(**{field.name: state[field.name] for field in fields(Tally)})


def _strongest(held: Int[Tensor, "unit k"], more: Int[Tensor, "unit token"]) -> Int[Tensor, "unit k"]:
    return torch.cat([held, more], 1).topk(held.shape[1], sorted=True).values
