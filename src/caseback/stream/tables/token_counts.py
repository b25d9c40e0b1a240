"""How often tokens, and runs of n tokens, occur: no site is read.

    unigram_t = number of tokens t,    key(t1 .. tn) = t1 V^(n-1) + ... + tn,  sorted, each with its count

Runs lie within a row. Counts merge by adding those of equal keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class TokenCounts(Table):
    """Counts of tokens and of runs of n.

    Attributes
    ----------
    n
        Tokens of a run; 1 for single tokens alone.
    """

    n: int = 2

    name: ClassVar[str] = "token_counts"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise OutOfRange(f"runs of {self.n} tokens: expected 1 or more")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        return []

    def empty(self, model: Model) -> State:
        if model.d_vocab**self.n > torch.iinfo(torch.int64).max:
            raise OutOfRange(f"runs of {self.n} tokens of a vocabulary of {model.d_vocab}: choose a smaller n")
        none = torch.zeros(0, dtype=torch.int64)
        return {"unigrams": torch.zeros(model.d_vocab, dtype=torch.int64), "keys": none, "counts": none}

    def add(self, state: State, seen: Seen) -> None:
        ids = seen.marks.current
        state["unigrams"] += torch.bincount(ids, minlength=len(state["unigrams"]))
        if self.n == 1 or len(ids) < self.n:
            return
        runs = ids.unfold(0, self.n, 1)[seen.marks.position[self.n - 1 :] >= self.n - 1]
        powers = torch.tensor([len(state["unigrams"]) ** i for i in reversed(range(self.n))], device=ids.device)
        keys = (runs * powers).sum(1)
        state["keys"], state["counts"] = _united(state, keys, torch.ones_like(keys))

    def merge(self, one: State, other: State) -> State:
        keys, counts = _united(one, other["keys"], other["counts"])
        return {"unigrams": one["unigrams"] + other["unigrams"], "keys": keys, "counts": counts}

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """``unigram`` counts by vocabulary entry; each run's tokens, ``ids`` (example, k), and its ``count``."""
        keys, size = state["keys"], model.d_vocab
        ids = torch.stack([keys // size**i % size for i in reversed(range(self.n))], 1)
        arrays = {
            "unigram": (state["unigrams"], ("vocab",)),
            "ids": (ids, ("example", "k")),
            "count": (state["counts"], ("example",)),
        }
        return dataset(model, arrays, {}, **attrs)


def _united(state: State, keys: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    together, which = torch.cat([state["keys"], keys]).unique(return_inverse=True)
    sums = torch.zeros_like(together).index_add_(0, which, torch.cat([state["counts"], counts]))
    return together, sums
