"""A table of sufficient statistics: what it reads, how a batch enters it, and how two parts become one.

    state(A then B) = merge(state(A), state(B)),        merge associative, in the order of the corpus

A state is a mapping of tensors. Each is merged by a rule of its own ("sum", "max", "min"); a table whose tensors hang
together says ``merge`` itself. Sums are of float64 numbers in float64, so that batches, padding and shards change no
more than their last bits. Padding never enters: tables see real tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens
from caseback.stream.marks import Marks

State = dict[str, Tensor]


@dataclass
class Seen:
    """A batch as tables see it: a run of the model, and its real tokens with their marks, row after row.

    Attributes
    ----------
    model
        The model.
    run
        What it gave; without logits unless some table reads them.
    tokens
        The rows, padded.
    marks
        Of the real tokens, in the order of ``at``, on the run's device.
    index
        Each real token's place in the corpus, (token).
    """

    model: Model
    run: Run
    tokens: Tokens
    marks: Marks
    index: Int[Tensor, " token"]
    _flat: dict[Site, Tensor] = field(default_factory=dict)

    @cached_property
    def padded(self) -> bool:
        """Whether any row is padded."""
        return self.tokens.padded

    @cached_property
    def row(self) -> Int[Tensor, " token"]:
        """The row of the batch that each real token stands in."""
        lengths = self.tokens.lengths
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    @cached_property
    def mean_unembedding(self) -> Float[Tensor, " d_model"]:
        """The mean of W_U over the vocabulary, which is read as a whole for it."""
        return at_least_float32(self.model.weights.W_U.detach()).mean(1)

    def at(self, site: Site) -> Tensor:
        """A site at the real tokens, (token, ...)."""
        if site not in self._flat:
            x = (self.run.logits if site.name == "logits" else self.run[site]).detach()
            self._flat[site] = x[self.tokens.mask.to(x.device)] if self.padded else x.flatten(0, 1)
        return self._flat[site]

    def wide(self, site: Site) -> Tensor:
        """The same in float32 at least."""
        return at_least_float32(self.at(site))

    def in_rows(self, x: Tensor) -> Tensor:
        """Real tokens' numbers as (row, position, ...), 0 beyond a row's end."""
        if not self.padded:
            return x.unflatten(0, self.tokens.shape)
        rows = x.new_zeros(*self.tokens.shape, *x.shape[1:])
        rows[self.row, self.marks.position] = x
        return rows

    def attention(self, layer: int) -> Float[Tensor, "row head query key"]:
        """A layer's attention by positions within each row, in float32 at least; 0 at queries that are padding."""
        site = Site("pattern", layer)
        if site not in self._flat:
            x = at_least_float32(self.run[site].detach())
            self._flat[site] = self._by_position(x) if self.padded else x.contiguous()
        return self._flat[site]

    def _by_position(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        position = torch.arange(width, device=x.device)
        beyond = position >= self.tokens.lengths[:, None]
        first = self.tokens.first
        if bool(first.any()):
            column = (first[:, None] + position).clamp_max(width - 1)
            x = x.gather(2, column[:, None, :, None].expand_as(x)).gather(3, column[:, None, None].expand_as(x))
        # never a product: padding may be NaN
        return x.masked_fill(beyond[:, None, :, None] | beyond[:, None, None], 0.0).contiguous()


@dataclass(frozen=True)
class Table:
    """What is collected, over which sites, and how it is read in the end.

    Attributes
    ----------
    name
        The name by which ``collect`` finds it.
    rules
        How each tensor of a state is merged: ``"sum"``, ``"max"`` or ``"min"``.
    """

    name: ClassVar[str] = ""
    rules: ClassVar[Mapping[str, str]] = {}

    def sites(self, anatomy: Anatomy) -> list[Site]:
        """What it reads of a pass; ``Site("logits")`` for the logits.

        Raises
        ------
        SiteAbsent
            Where the model has not what the table is of, with the reason.
        """
        raise NotImplementedError

    def absent(self, anatomy: Anatomy) -> str | None:
        """Why there is no such table of a model; None where there is one."""
        try:
            self.sites(anatomy)
        except SiteAbsent as error:
            return str(error)
        return None

    def options(self) -> dict[str, Any]:
        """The table's options as plain data, from which ``tables_of`` makes it again."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def empty(self, model: Model) -> State:
        """Before the first token."""
        raise NotImplementedError

    def add(self, state: State, seen: Seen) -> None:
        """Let a batch enter."""
        raise NotImplementedError

    def merge(self, one: State, other: State) -> State:
        """Two parts of a corpus, the earlier first."""
        return {name: _RULES[self.rules[name]](value, other[name]) for name, value in one.items()}

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """The statistics, with their dimensions."""
        raise NotImplementedError


_RULES = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum}
