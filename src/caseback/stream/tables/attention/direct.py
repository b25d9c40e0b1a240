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
from caseback.model.algebra.weights import Weights
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
            f"no table {table}: {anatomy.before_write} stands between z and what heads write, which is not z W_O"
        )


def toward_tokens(
    weights: Weights, ids: Int[Tensor, " token"], mean: Float[Tensor, " d_model"]
) -> Float[Tensor, "token d_model"]:
    """What to add to the stream so that each token's logit rises against the others' mean, before the final norm."""
    norm, direction = weights.final_norm, at_least_float32(weights.W_U.detach()[:, ids]).T - mean
    return direction if norm is None else norm.centre(direction * norm.gamma.to(direction))


class TowardTokens:
    """What heads write toward one token for each of the batch's, by the direct path: each different one is read once.

    Parameters
    ----------
    seen
        The batch.
    ids
        (token,), the token that each of the batch's is written toward.
    """

    def __init__(self, seen: Seen, ids: Int[Tensor, " token"]) -> None:
        self.weights = seen.model.weights
        distinct, self.which = ids.unique(return_inverse=True)
        self.direction = toward_tokens(self.weights, distinct, seen.mean_unembedding)

    def read(self, layer: int) -> Float[Tensor, "token head d_head"]:
        """What a layer's z is read by: its product with z is what each head writes toward the token."""
        write, post = at_least_float32(self.weights.W_O[layer].detach()), self.weights.attn_post_norm[layer]
        toward = self.direction if post is None else post.centre(self.direction * post.gamma.to(self.direction))
        return (toward @ write.flatten(0, 1).T.to(toward)).unflatten(1, write.shape[:2])[self.which]


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
        some = seen.marks.position >= self.skip
        state["n"] += some.sum()
        toward = TowardTokens(seen, seen.at(Site("logits")).argmax(-1))
        for layer in range(seen.model.anatomy.n_layers):
            z, read = seen.wide(Site("z", layer)), toward.read(layer)
            for what, along in (("own", read), ("other", read.roll(BACK, 0))):
                effect = torch.linalg.vecdot(z, along) * some[:, None]
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
