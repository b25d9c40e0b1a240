"""What a collection tells: each unit's strongest tokens in their contexts, its range in bins, how often it fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.activating.rows import Rows
from caseback.decode.vocabulary.activating.tally import EIGHTHS, Tally
from caseback.decode.vocabulary.activating.units import Units
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.arguments import checked
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.tables.ordered_keys import index_of, values_of


@dataclass(frozen=True)
class Example:
    """One token in its context.

    Attributes
    ----------
    row, pos
        Where it stands: row of the corpus, position in that row.
    value
        The unit's activation there.
    first
        The position of the window's first token.
    ids, text
        The window's tokens.
    values
        The unit's activation at each of them.
    """

    row: int
    pos: int
    value: float
    first: int
    ids: list[int]
    text: list[str]
    values: list[float]


@dataclass
class Activating:
    """A collection: what ``activating_inputs`` finds in a corpus.

    Attributes
    ----------
    units
        Which units of which site.
    names
        The index of each unit at its site.
    tally, rows
        The counts, and the corpus as tokens.
    provenance
        How it was collected.
    """

    units: Units
    names: list[int]
    tally: Tally
    rows: Rows
    provenance: dict[str, Any]

    @property
    def n_tokens(self) -> int:
        """Tokens counted."""
        return self.tally.seen

    @checked
    def number(self, unit: int) -> int:
        """Where a unit stands among those that were looked at.

        Raises
        ------
        OutOfRange
            For one that was not.
        """
        if unit not in self.names:
            raise OutOfRange(f"unit {unit} was not collected: {_some(self.names)} were")
        return self.names.index(unit)

    @checked
    def top(self, model: Model | None = None) -> xr.DataArray:
        """The largest activations.

        Returns
        -------
        DataArray (feature, k) in falling order, NaN where there were fewer tokens; ``row`` and ``pos`` say where each
        is, ``frequency`` how often a unit fires.
        """
        values, index = values_of(self.tally.keys), index_of(self.tally.keys)
        row, pos = self.rows.place(index.clamp_min(0))
        there = index >= 0
        return labelled(
            values,
            ("feature", "k"),
            {
                "feature": self.names,
                "row": (("feature", "k"), torch.where(there, row, -1)),
                "pos": (("feature", "k"), torch.where(there, pos, -1)),
                "frequency": ("feature", self.frequency()),
            },
            name="activation",
            model=model,
            site=str(self.units.site),
            tokens=self.n_tokens,
        )

    def frequency(self) -> Float[Tensor, " unit"]:
        """The share of tokens at which each unit is above the threshold."""
        return self.tally.firing.double() / max(1, self.n_tokens)

    def mean(self) -> Float[Tensor, " unit"]:
        """Each unit's mean activation."""
        return self.tally.moments[0] / max(1, self.n_tokens)

    def std(self) -> Float[Tensor, " unit"]:
        """Each unit's standard deviation."""
        return (self.tally.moments[1] / max(1, self.n_tokens) - self.mean() ** 2).clamp_min(0).sqrt()

    @checked
    def outstanding(self, n: int) -> list[int]:
        """The units whose strongest token is most standard deviations above their mean, the most first."""
        best = values_of(self.tally.keys[:, :1])[:, 0].double().nan_to_num(0.0)
        scores = torch.where(self.std() > 0, (best - self.mean()) / self.std(), torch.zeros_like(best))
        return [self.names[i] for i in scores.sort(descending=True, stable=True).indices[:n].tolist()]

    @checked
    def quantiles(self, q: Sequence[float]) -> Float[Tensor, "unit q"]:
        """Quantiles from the histogram, each right to its bin (an eighth of an octave; 2^-16 about 0).

        The value given is the bin's end that is nearer to 0: of the lowest bin that has at least a share q of the
        tokens in it or below it.

        Raises
        ------
        OutOfRange
            For a number that is not a share.
        """
        wanted = torch.tensor(list(q), dtype=torch.float64)
        if not len(wanted) or bool(((wanted < 0) | (wanted > 1)).any()):
            raise OutOfRange(f"quantiles {list(q)}: expected shares from 0 to 1")
        return EIGHTHS.quantiles(self.tally.histogram, wanted)

    @checked
    def examples(
        self, model: Model, unit: int, *, top: int | None = None, before: int = 12, after: int = 6
    ) -> list[Example]:
        """The strongest tokens of a unit in their contexts; their rows are run again for the activations beside them.

        Parameters
        ----------
        model
            The model.
        unit
            Its index at the site.
        top
            How many; all that were kept by default.
        before, after
            Tokens shown on either side, cut at the ends of the row.
        """
        keys = self.tally.keys[self.number(unit)][:top]
        return self.shown(model, unit, [i for i in index_of(keys).tolist() if i >= 0], before, after)

    @checked
    def ranges(
        self, model: Model, unit: int, *, bins: int = 4, each: int = 3, before: int = 12, after: int = 6
    ) -> list[tuple[float, float, list[Example]]]:
        """Examples from a unit's whole range: an interpretation that only fits the top is an illusion.

        The range of the sampled activations is cut into ``bins`` of equal width, the lowest first; each has its
        bounds and up to ``each`` tokens of the sample, in the sample's own (random) order.
        """
        if bins < 1 or each < 1:
            raise OutOfRange(f"{bins} bins of {each} examples: expected 1 or more of each")
        values = self.tally.sample_values[:, self.number(unit)].numpy()
        edges = np.linspace(values.min(), values.max(), bins + 1)
        at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
        ranges = []
        for b in range(bins):
            some = self.tally.sample_index[torch.from_numpy(np.flatnonzero(at == b)[:each])].tolist()
            ranges.append((float(edges[b]), float(edges[b + 1]), self.shown(model, unit, some, before, after)))
        return ranges

    @checked
    def shown(self, model: Model, unit: int, index: Sequence[int], before: int, after: int) -> list[Example]:
        """Places of the corpus with their contexts and a unit's activations in them."""
        if before < 0 or after < 0:
            raise OutOfRange(f"{before} tokens before and {after} after: expected 0 or more")
        if not index:
            return []
        rows, positions = (x.tolist() for x in self.rows.place(list(index)))
        values = self.again(model, unit, sorted(set(rows)))
        examples = []
        for row, pos in zip(rows, positions, strict=True):
            first = max(0, pos - before)
            ids = self.rows[row][first : pos + after + 1]
            beside = values[row][first : pos + after + 1]
            text = [model.token_text(i) for i in ids]
            examples.append(Example(row, pos, beside[pos - first], first, ids, text, beside))
        return examples

    @checked
    def again(self, model: Model, unit: int, rows: Sequence[int]) -> dict[int, list[float]]:
        """A unit's activations at every token of some rows."""
        self.number(unit)
        only = Units(self.units.site, (unit,), self.units.directions, self.units.heads)
        by_row: dict[int, list[float]] = {}
        at_once = limit("activation_rows")
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once]
            tokens = model.tokens([self.rows[r] for r in some])
            flat = only.values(only.run(model, tokens))[:, 0].cpu()
            parts = flat.split(tokens.lengths.tolist())
            by_row |= {r: part.tolist() for r, part in zip(some, parts, strict=True)}
        return by_row


def _some(names: list[int]) -> str:
    return ", ".join(map(str, names[:8])) + (f" ... ({len(names)} in all)" if len(names) > 8 else "")
