"""A table of sufficient statistics: what it reads, how a batch enters it, and how two parts become one.

    state(A then B) = merge(state(A), state(B)),        merge associative, in the order of the corpus

A state is a mapping of tensors. Each is merged by a rule of its own ("sum", "max", "min"); a table whose tensors hang
together says ``merge`` itself. Sums are of float64 numbers in float64, so that batches, padding and shards change no
more than their last bits. Padding never enters: tables see real tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
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

    def at(self, site: Site) -> Tensor:
        """A site at the real tokens, (token, ...)."""
        if site not in self._flat:
            x = self.run.logits if site.name == "logits" else self.run[site]
            x = x.detach()
            self._flat[site] = x[self.tokens.mask.to(x.device)] if self.tokens.padded else x.flatten(0, 1)
        return self._flat[site]


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

    def options(self) -> dict[str, Any]:
        """Its fields, by which it is told from others and made again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def sites(self, anatomy: Anatomy) -> list[Site]:
        """What it reads of a pass; ``Site("logits")`` for the logits."""
        raise NotImplementedError

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
