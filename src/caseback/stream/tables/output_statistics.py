"""What the model predicts at each token: loss, entropy, confidence and rank of the next token, by groups.

    loss = -log p(next),  entropy = -sum p log p,  p_max = max p,  rank = 1 + number of entries above the next token

Of every token that has a next one in its row; by default by bins of its position. With ``per_token`` the numbers
themselves are held, in the order of the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.dataset import dataset, mean_and_variance
from caseback.stream.tables.site_shapes import in_slices
from caseback.stream.tables.table import Seen, State, Table
from caseback.stream.tables.token_groups import group_matrix, group_names

MEASURES = ("loss", "entropy", "p_max", "rank", "log_rank", "first")
"""``first`` is 1 where the next token is the likeliest."""


@dataclass(frozen=True)
class OutputStatistics(Table):
    """Means and variances of what is predicted.

    Attributes
    ----------
    groups
        Which groups of tokens, each the one that predicts; see ``token_groups``.
    per_token
        Hold every token's numbers too.
    """

    groups: tuple[str, ...] = ("any", "position")
    per_token: bool = False

    name: ClassVar[str] = "output_statistics"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "sums", "squares"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        if anatomy.classes is not None:
            raise SiteAbsent(f"no table {self.name}: this model's logits are of classes, not of next tokens")
        return [Site("logits")]

    def empty(self, model: Model) -> State:
        n = len(group_names(self.groups))
        zeros = {name: torch.zeros(len(MEASURES), n, dtype=torch.float64) for name in ("sums", "squares")}
        tokens = {
            "place": torch.zeros(0, dtype=torch.int64),
            "tokens": torch.zeros(len(MEASURES), 0, dtype=torch.float64),
        }
        return {"n": torch.zeros(n, dtype=torch.int64), **zeros, **(tokens if self.per_token else {})}

    def add(self, state: State, seen: Seen) -> None:
        here = (seen.marks.position[1:] > 0).nonzero()[:, 0]
        # a row's last token has no next one: whatever is measured there is left out
        measures = widened(measured(seen.at(Site("logits")), seen.marks.current.roll(-1))[:, here])
        groups = group_matrix(seen.marks, self.groups, measures.dtype)[here]
        state["n"] += groups.sum(0).long()
        state["sums"] += measures @ groups
        state["squares"] += measures.square() @ groups
        if self.per_token:
            state["place"] = torch.cat([state["place"], seen.index[here]])
            state["tokens"] = torch.cat([state["tokens"], measures], 1)

    def merge(self, one: State, other: State) -> State:
        merged = {name: one[name] + other[name] for name in self.rules}
        if self.per_token:
            merged["place"] = torch.cat([one["place"], other["place"]])
            merged["tokens"] = torch.cat([one["tokens"], other["tokens"]], 1)
        return merged

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """Each of ``MEASURES`` and its ``_variance`` by group, and ``n``; per token ``token_loss`` ... by ``place``."""
        n = state["n"].double()
        mean, variance = mean_and_variance(state["sums"], state["squares"], n)
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {"n": (state["n"], ("group",))}
        for i, measure in enumerate(MEASURES):
            arrays |= {measure: (mean[i], ("group",)), f"{measure}_variance": (variance[i], ("group",))}
        if self.per_token:
            order = state["place"].argsort()
            arrays["place"] = (state["place"][order], ("example",))
            for i, measure in enumerate(MEASURES):
                arrays[f"token_{measure}"] = (state["tokens"][i, order], ("example",))
        return dataset(model, arrays, {"group": group_names(self.groups)}, **attrs)


def measured(logits: Tensor, target: Tensor) -> Tensor:
    """``MEASURES`` of rows of logits, (measure, token): some rows at a time, so that they stay in a cache."""
    parts = []
    for some, x in in_slices(logits):
        x = at_least_float32(x)
        own = x.gather(1, target[some, None])
        top = x.amax(1, keepdim=True)
        above = torch.gt(x, own, out=torch.empty_like(x)).sum(1)
        x = x - top
        p = x.exp()
        total = p.sum(1)
        log_total = total.log()
        # p log p at -inf is 0
        mean = torch.linalg.vecdot(p, x.clamp_min_(torch.finfo(x.dtype).min)) / total
        loss = log_total - (own - top)[:, 0]
        parts.append(torch.stack([loss, log_total - mean, 1 / total, above + 1, (above + 1).log(), above == 0]))
    return torch.cat(parts, 1)
