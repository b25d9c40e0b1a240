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
from jaxtyping import Float, Int
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


def expect_direct(anatomy: Anatomy, table: str) -> None:
    """Refuse a model whose heads have no direct effect on tokens.

    Raises
    ------
    SiteAbsent
        With the reason.
    """
    if anatomy.classes is not None:
        raise SiteAbsent(f"no table {table}: this model's logits are of classes, not of tokens")
    if anatomy.head_site != "z":
        raise SiteAbsent(
            f"no table {table}: {anatomy.family.before_o} stands between heads and W_O, so what a head writes is not "
            "z W_O"
        )


def toward_tokens(model: Model, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """What to add to the stream so that each token's logit rises against the others' mean, before the final norm."""
    norm, table = model.weights.final_norm, at_least_float32(model.weights.W_U.detach())
    direction = table[:, ids].T - table.mean(1)
    return direction if norm is None else norm.centre(direction * norm.gamma.to(direction))


def direct_effect(seen: Seen, layer: int, direction: Float[Tensor, "token d_model"]) -> Float[Tensor, "token head"]:
    """What the heads of a layer write along a direction of each token."""
    weights = seen.model.weights
    write, post = at_least_float32(weights.W_O[layer].detach()), weights.attn_post_norm[layer]
    toward = direction if post is None else post.centre(direction * post.gamma.to(direction))
    read = (toward @ write.flatten(0, 1).T.to(toward)).unflatten(1, write.shape[:2])
    return torch.linalg.vecdot(seen.wide(Site("z", layer)), read)


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
        expect_direct(anatomy, self.name)
        return [*layered(anatomy, "z", self.name), Site("logits")]

    def empty(self, model: Model) -> State:
        layers = model.anatomy.n_layers
        heads = shape_of(model, [Site("z", layer) for layer in range(layers)], self.name)[0]
        sums = {name: torch.zeros(layers, heads, dtype=torch.float64) for name in self.rules if name != "n"}
        return {"n": torch.zeros((), dtype=torch.int64)} | sums

    def add(self, state: State, seen: Seen) -> None:
        likeliest = seen.at(Site("logits")).argmax(-1)
        some = seen.marks.position >= self.skip
        state["n"] += some.sum()
        for what, of in (("own", likeliest), ("other", likeliest.roll(BACK))):
            direction = toward_tokens(seen.model, of)
            for layer in range(seen.model.anatomy.n_layers):
                effect = direct_effect(seen, layer, direction) * some[:, None]
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
