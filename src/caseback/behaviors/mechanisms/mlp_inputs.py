"""What an MLP reads without one head's write, for all heads and neurons at once (PRIMER 5.2.19, 5.4.3).

    pre   =  (x M / s) gamma W + c                            c = beta W + b
    drop  =  w M gamma W                                      w = z W_O, or z less its mean: linear in the write
    pre'  =  (pre - c - drop / s) (s / s') + c                s' = s where the norm is frozen, else scale(x - w)
    n'    =  act(pre'), or act(gate') pre'                    exactly: only the path into this MLP is cut

``drop`` of all heads of a layer and all neurons is one product, whichever norm; a norm behind attention is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.algebra.weights import Weights
from caseback.model.algebra.writes import attention_branch
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.running.model import Model
from caseback.tasks.corpus import counted_tokens


@dataclass(frozen=True)
class Mlp:
    """A layer's maps into its neurons.

    Attributes
    ----------
    maps, biases
        W_in and, where the MLP is gated, W_gate behind it, each (d_model, neuron), with their biases.
    norm, act
        What stands before the maps, and the activation.
    """

    maps: list[Tensor]
    biases: list[Tensor]
    norm: Norm | None
    act: Any

    @classmethod
    def of(cls, anatomy: Anatomy, layer: int) -> Mlp:
        p, weights = anatomy.layers[layer], Weights(anatomy)
        names = ["in", "gate"] if p.w_gate is not None or p.gate_up is not None else ["in"]
        maps, biases = (
            [at_least_float32(getattr(weights, f"{what}_{name}")[layer].detach()) for name in names] for what in "Wb"
        )
        return cls(maps, biases, None if p.mlp_norm is None else anatomy.norms[p.mlp_norm], p.act)

    def of_neurons(self, neurons: Int[Tensor, " neuron"]) -> Mlp:
        """The same with some neurons only."""
        maps, biases = [m[:, neurons] for m in self.maps], [b[neurons] for b in self.biases]
        return Mlp(maps, biases, self.norm, self.act)

    def scale(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims 1"]:
        return x.new_ones(*x.shape[:-1], 1) if self.norm is None else self.norm.scale(x)

    def pre(self, x: Float[Tensor, "token d_model"]) -> list[Tensor]:
        """What the activation and the product read, (token, neuron) for each map."""
        read = x if self.norm is None else self.norm(x)
        return [read @ m + b for m, b in zip(self.maps, self.biases, strict=True)]

    def post(self, pre: Sequence[Tensor]) -> Tensor:
        """The neurons' activations."""
        return self.act(pre[0]) if len(pre) == 1 else self.act(pre[1]) * pre[0]

    def folded(self, weight: Float[Tensor, "head d_head d_model"]) -> list[Float[Tensor, "head d_head neuron"]]:
        """Of each map what it makes of z, up to the norm's denominator."""
        read = weight if self.norm is None else self.norm.frozen(weight, weight.new_ones(1))
        return [read @ m for m in self.maps]

    def without(self, pre: Sequence[Tensor], drops: Sequence[Tensor], scale: Tensor, then: Tensor) -> list[Tensor]:
        """``pre`` less what a write gave to it; ``then`` is the norm's denominator without that write."""
        out = []
        for one, drop, m, b in zip(pre, drops, self.maps, self.biases, strict=True):
            constant = b if self.norm is None or self.norm.beta is None else b + self.norm.beta @ m
            out.append((one - constant - drop / scale) * (scale / then) + constant)
        return out


@dataclass(frozen=True)
class MlpInputs:
    """The stream before every MLP and every head's z, at the tokens of a corpus that count.

    Attributes
    ----------
    streams
        By layer (token, d_model).
    heads, weights
        By layer z over the denominator of a norm behind attention, (token, head, d_head), less what stands for it where
        it is taken out; and what makes writes of it, (head, d_head, d_model).
    row, pos
        Of each token the row that it is in, and its position there.
    """

    anatomy: Anatomy
    streams: list[Tensor]
    heads: list[Tensor]
    weights: list[Tensor]
    row: Int[Tensor, " token"]
    pos: Int[Tensor, " token"]

    def sources(self, layer: int) -> range:
        """The layers whose heads an MLP reads."""
        return range(layer if self.anatomy.layers[layer].parallel else layer + 1)

    def without_heads(
        self, mlp: Mlp, layer: int, source: int, tokens: Tensor, recomputed: bool
    ) -> tuple[Float[Tensor, "head token neuron"], Float[Tensor, "head token neuron"]]:
        """What each head of a layer gives to what the activation reads, and the activations without it."""
        z, weight, x = self.heads[source][tokens], self.weights[source], self.streams[layer][tokens]
        scale = mlp.scale(x)
        drops = [torch.einsum("the,hem->htm", z, part) for part in mlp.folded(weight)]
        then = mlp.scale(x - torch.einsum("the,hed->htd", z, weight)) if recomputed else scale
        return drops[-1] / scale, mlp.post(mlp.without(mlp.pre(x), drops, scale, then))


@torch.no_grad()
def mlp_inputs(
    model: Model, rows: Sequence[list[int]], layers: Sequence[int], kind: str, skip_first: int, progress: bool
) -> MlpInputs:
    """Run rows of token ids and keep what MLPs read, and what heads wrote.

    Raises
    ------
    SiteAbsent
        For an MLP that is not an activation between two maps.
    """
    anatomy, n = model.anatomy, model.n_layers
    streams, heads = [[[] for _ in range(n)] for _ in range(2)]
    row, pos, weights = [], [], []
    at_once = max(1, limit("stream_tokens") // max(map(len, rows)))
    for start in progress_bar(range(0, len(rows), at_once), "texts", unit="batch", show=progress):
        tokens = model.tokens([*rows[start : start + at_once]])
        first = [("mlp_post", i) for i in layers] if start == 0 else []
        run = model.run(tokens, read=["z", "mlp_in", *first])
        counted = counted_tokens(model, run.tokens, skip_first, True)
        for layer in range(n):
            x, z = at_least_float32(run["mlp_in", layer]), at_least_float32(run["z", layer])
            branch = attention_branch(anatomy, layer, z)
            z = z if branch.scale is None else z / branch.scale[..., None]
            where = counted.to(z.device)
            streams[layer].append(x[where])
            heads[layer].append(z[where])
            if first and layer in layers:
                _expect_neurons(anatomy, layer, x[where], run["mlp_post", layer][where])
            if start == 0:
                weight = branch.weight
                weight = weight if branch.norm is None else branch.norm.frozen(weight, weight.new_ones(1))
                weights.append(weight * branch.factor)
        which, at = counted.nonzero(as_tuple=True)
        row.append(which + start)
        pos.append(run.tokens.position_ids[which, at])
    whole = [torch.cat(some) for some in heads]
    if kind == "mean":
        whole = [z - z.mean(0) for z in whole]
    return MlpInputs(anatomy, [torch.cat(some) for some in streams], whole, weights, torch.cat(row), torch.cat(pos))


def _expect_neurons(anatomy: Anatomy, layer: int, x: Tensor, neurons: Tensor) -> None:
    mlp, neurons = Mlp.of(anatomy, layer), at_least_float32(neurons)
    off = 1e-2 * float(neurons.abs().max())
    if mlp.act is None or not torch.allclose(mlp.post(mlp.pre(x)), neurons, rtol=1e-2, atol=off):
        raise SiteAbsent(
            f"this model ({anatomy.model_type}) has no neurons to cut paths into: the MLP of layer {layer} is not an "
            "activation between two maps"
        )
