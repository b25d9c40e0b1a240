"""How much each head looks at the earlier token that the stream predicts most, as the logit lens reads it there.

    s(i) = argmax over keys 0 < j <= i with t_j != t_i of the logit of t_j at x_i,    x the stream before the layer
    attention = mean over queries i of a(i, s(i)),    other the same with x_(i - 8): what another query predicts of them
    uniform = mean of 1 / number of keys that may look

Only tokens of the row compete, so its vocabulary is all that is formed; of a token's places the first is taken. A token
that is the query's own is left out: the stream of a model with tied embeddings predicts it, whatever it has computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.stream.tables.attention.allowed_keys import allowed_keys, distinct
from caseback.stream.tables.dataset import dataset
from caseback.stream.tables.site_shapes import layered, shape_of
from caseback.stream.tables.table import Seen, State, Table

BACK = 8
"""How many tokens before the query the other one stands."""


@dataclass(frozen=True)
class AttentionPredicted(Table):
    """Attention of every head to what is predicted.

    Attributes
    ----------
    skip
        Queries at so many first positions of a row are left out; their other query would be of none.
    """

    skip: int = BACK + 4

    name: ClassVar[str] = "attention_predicted"
    rules: ClassVar[Mapping[str, str]] = dict.fromkeys(("n", "uniform", "attention", "other"), "sum")

    def sites(self, anatomy: Anatomy) -> list[Site]:
        if anatomy.classes is not None:
            raise SiteAbsent(f"no table {self.name}: this model's logits are of classes, not of tokens")
        return [site for name in ("pattern", "resid_pre") for site in layered(anatomy, name, self.name)]

    def empty(self, model: Model) -> State:
        layers = model.anatomy.n_layers
        heads = shape_of(model, [Site("z", layer) for layer in range(layers)], self.name)[0]
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64)  # noqa: E731
        both = {name: zeros(layers, heads) for name in ("attention", "other")}
        return {"n": torch.zeros(layers, dtype=torch.int64), "uniform": zeros(layers), **both}

    def add(self, state: State, seen: Seen) -> None:
        anatomy, marks, width = seen.model.anatomy, seen.marks, seen.tokens.shape[1]
        if width <= self.skip:
            return
        ids = seen.in_rows(marks.current)
        real = seen.in_rows(torch.ones_like(marks.current)).bool()
        lens = RowLens(seen.model, ids)
        for mask, layers in distinct(allowed_keys(anatomy, width)).values():
            mask = mask.to(ids.device)
            may = candidates(ids, real, mask)
            never = ~may
            some = real & may.any(-1)
            some[:, : self.skip] = False
            state["n"][layers] += some.sum()
            state["uniform"][layers] += widened(some / mask.sum(1)).sum()
            for layer in layers:
                scores = lens(seen.in_rows(seen.wide(Site("resid_pre", layer))))
                chosen, other = (x.masked_fill(never, -torch.inf).argmax(-1) for x in (scores, scores.roll(BACK, 1)))
                a = seen.attention(layer)
                for name, at in (("attention", chosen), ("other", other)):
                    looked = a.gather(-1, at[:, None, :, None].expand(-1, a.shape[1], -1, 1))[..., 0]
                    state[name][layer] += (looked * some[:, None]).sum((0, 2))

    def result(self, state: State, model: Model, **attrs: Any) -> xr.Dataset:
        """By head ``attention`` and ``other``; by layer ``uniform`` and ``n`` queries."""
        n, by_head = state["n"].double(), ("layer", "head")
        arrays: dict[str, tuple[Tensor, tuple[str, ...]]] = {
            "attention": (state["attention"] / n[:, None], by_head),
            "other": (state["other"] / n[:, None], by_head),
            "uniform": (state["uniform"] / n, ("layer",)),
            "n": (state["n"], ("layer",)),
        }
        return dataset(model, arrays, {"layer": list(range(model.anatomy.n_layers))}, skip=self.skip, **attrs)


def candidates(
    ids: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"], mask: Bool[Tensor, "query key"]
) -> Bool[Tensor, "row query key"]:
    """Which keys compete: those that may look, past the row's first, of another token than the query's."""
    may = mask & (ids[:, :, None] != ids[:, None]) & real[:, None] & real[:, :, None]
    may[:, :, 0] = False
    return may


class RowLens:
    """Reads a stream as the logits of its row's own tokens, up to a cap and a scale that are the same for all.

    Parameters
    ----------
    model
        Whose last norm and unembedding read it.
    ids
        (row, pos), the tokens of each row.
    """

    def __init__(self, model: Model, ids: Int[Tensor, "row pos"]) -> None:
        weights = model.weights
        self.norm = weights.final_norm
        self.columns = at_least_float32(weights.W_U.detach()[:, ids]).permute(1, 0, 2)
        self.bias = at_least_float32(weights.b_U.detach())[ids][:, None]
        # a token that stands twice has one logit, which a product rounds by its column
        self.first = (ids[:, :, None] == ids[:, None]).byte().argmax(-1)[:, None]

    def __call__(self, stream: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row query key"]:
        """The logits of a row's tokens at the positions of a stream."""
        read = at_least_float32(stream if self.norm is None else self.norm(stream))
        logits = read @ self.columns.to(read) + self.bias.to(read)
        return logits.gather(-1, self.first.expand_as(logits))
