"""What each head writes for or against the token that the model predicts, by the direct path to the logits.

    d(i) = z_i W_O (U_t - mean U),  t the likeliest token at i;    other(i) the same with the token likeliest at i - 8
    balance = sum of d / sum of |d|,  -1 where a head always writes against it

What the final norm divides by is left out of d: it is the same for all heads, and close to it for all tokens.
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
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.attention.predicted import BACK
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table


@dataclass(frozen=True)
class HeadDirect(Table):
    """Direct effects of every head on what is predicted.

    Attributes
    ----------
    skip
        Tokens at so many first positions of a row are left out.
    """

    skip: int = BACK + 4

    name: ClassVar[str] = "head_direct"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "own", "own_size", "other", "other_size"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        if anatomy.classes is not None:
            raise SiteAbsent(f"no table {self.name}: this model's logits are of classes, not of tokens")
        if anatomy.head_site != "z":
            raise SiteAbsent(
                f"no table {self.name}: {anatomy.family.before_o} stands between heads and W_O, so what a head writes "
                "is not z W_O"
            )
        return [*layered(anatomy, "z", self.name), Site("logits")]

    def empty(self, model: Model) -> State:
        layers = model.anatomy.n_layers
        heads = shape_of(model, [Site("z", layer) for layer in range(layers)], self.name)[0]
        sums = {name: torch.zeros(layers, heads, dtype=torch.float64) for name in self.rules if name != "n"}
        return {"n": torch.zeros((), dtype=torch.int64)} | sums

    def add(self, state: State, seen: Seen) -> None:
        weights, position = seen.model.weights, seen.marks.position
        likeliest = seen.at(Site("logits")).argmax(-1)
        some = position >= self.skip
        state["n"] += some.sum()
        norm, table = weights.final_norm, at_least_float32(weights.W_U.detach())
        center = table.mean(1)
        for what, of in (("own", likeliest), ("other", likeliest.roll(BACK))):
            direction = table[:, of].T - center
            if norm is not None:
                direction = norm.centre(direction * norm.gamma.to(direction))
            for layer in range(seen.model.anatomy.n_layers):
                write = at_least_float32(weights.W_O[layer].detach())
                post, toward = weights.attn_post_norm[layer], direction
                if post is not None:
                    toward = post.centre(toward * post.gamma.to(toward))
                read = (toward @ write.flatten(0, 1).T.to(toward)).unflatten(1, write.shape[:2])
                effect = torch.linalg.vecdot(seen.wide(Site("z", layer)), read) * some[:, None]
                state[what][layer] += effect.sum(0)
                state[f"{what}_size"][layer] += effect.abs().sum(0)

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """By head ``own`` and ``other``: balances, from -1, always against, to 1, always for."""
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
        for what in ("own", "other"):
            size = state[f"{what}_size"]
            arrays[what] = (torch.where(size > 0, state[what] / torch.where(size > 0, size, 1), 0.0), ("layer", "head"))
        coords = {"layer": list(range(model.anatomy.n_layers))}
        return dataset(model, arrays, coords, n=int(state["n"]), skip=self.skip, **attrs)
