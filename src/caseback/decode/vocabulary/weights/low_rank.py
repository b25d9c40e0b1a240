"""Weights of low rank, and LASER's search for the one that helps most (PRIMER 4.3.11).

    W_k = sum_{i <= k} s_i u_i v_i^T  =  W V_k V_k^T  =  U_k U_k^T W        |W - W_k|_F^2 = sum_{i > k} s_i^2

So a layer with W_k in place of W is the layer with its output, or its input, projected on the first k singular
vectors: an edit of an activation, which leaves the model's weights alone, holds while generating and can be swept.

    in, gate   mlp_pre or mlp_gate = x W + b      becomes (x W) V_k V_k^T + b
    out        mlp_post, the input n of n W_out   becomes n U_k U_k^T
    o          z, all heads side by side          becomes z U_k U_k^T

One decomposition of each matrix, exact, serves all ranks. Queries and keys are rotated or normed, and values clipped,
behind their matrices in many families, where the same cannot be said of an activation; they are not among these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.weights.named_matrices import kind_of, matrix_of
from caseback.decode.vocabulary.weights.singular_words import svd_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Apply, Edit, Project
from caseback.model.running.metrics import Bound, Metric, Position, Target, target_ids
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

SITES = {"in": "mlp_pre", "gate": "mlp_gate", "out": "mlp_post", "o": "z"}
"""Where each matrix's edit is made."""
RHO = (0.9, 0.8, 0.6, 0.2, 0.1, 0.05, 0.01)
"""The shares of the full rank that Sharma et al. search."""


@checked
class LowRank:
    """One weight of a model with its singular value decomposition, from which every rank follows (PRIMER 4.3.11).

    Parameters
    ----------
    model
        The model. It is not changed.
    matrix
        ``"in"``, ``"gate"`` or ``"out"`` of the MLP, or ``"o"``, W_O of all heads together.
    layer
        Whose.

    Attributes
    ----------
    U, S, Vh
        W = U diag(S) Vh, in float32 at least.

    Raises
    ------
    CasebackError
        For another matrix, and for a layer whose MLP is a mixture of experts.
    UnknownSite
        For a layer that is not there.
    SiteAbsent
        For a weight that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> weight = LowRank(model, "out", 1)
    >>> edited = model.run("the cat and the", edits=weight.edit(8))
    >>> weight.lost(weight.full), 0 < weight.lost(8) < 1
    (0.0, True)
    """

    def __init__(self, model: Model, matrix: str, layer: int):
        kind_of(matrix)
        if matrix not in SITES:
            raise CasebackError(f"matrix {matrix!r} cannot be replaced by an edit: expected one of {', '.join(SITES)}")
        self.matrix, self.layer = matrix, model.anatomy.layer(layer)
        if matrix == "o":
            weight = at_least_float32(model.weights.W_O[self.layer]).flatten(0, 1)
        else:
            if model.anatomy.layers[self.layer].experts is not None:
                raise CasebackError(
                    f"layer {self.layer} of this model has a mixture of experts, whose neurons are not a site: "
                    "choose layers with a dense MLP, or the matrix 'o'"
                )
            weight = matrix_of(model, model.weights, matrix, self.layer)
            assert isinstance(weight, Tensor)
        self.shape = tuple(weight.shape)
        self.U, self.S, self.Vh = svd_of(weight)
        on_output = matrix in ("in", "gate")
        self.bias = at_least_float32(getattr(model.weights, f"b_{matrix}")[self.layer]) if on_output else None

    @property
    def full(self) -> int:
        """The number of singular values: the smaller side."""
        return len(self.S)

    def at(self, rank: int) -> Float[Tensor, "n m"]:
        """W_k itself."""
        self._expect(rank)
        return (self.U[:, :rank] * self.S[:rank]) @ self.Vh[:rank]

    def lost(self, rank: int) -> float:
        """|W - W_k|_F^2 / |W|_F^2, by Eckart and Young the least that any matrix of this rank can lose."""
        self._expect(rank)
        squares = in_float64(self.S).pow(2)
        return float(squares[rank:].sum() / squares.sum())

    def edit(self, rank: int, *, drop: bool = False) -> Edit:
        """The edit under which the model runs as if W were W_k.

        Parameters
        ----------
        rank
            How many of the largest singular values are kept, 0 to ``full``.
        drop
            Remove those and keep the others instead.
        """
        self._expect(rank)
        basis = self.Vh[:rank] if self.matrix in ("in", "gate") else self.U[:, :rank].mT
        site: dict[str, Any] = {"site": SITES[self.matrix], "layer": self.layer}
        if self.matrix == "out":
            return Project(basis=basis, keep=not drop, **site)

        def put(old: Tensor) -> Tensor:
            x = at_least_float32(old.flatten(1))
            constant = torch.zeros((), dtype=x.dtype, device=x.device) if self.bias is None else self.bias.to(x)
            x = x - constant
            inside = x @ basis.mT.to(x) @ basis.to(x)
            return ((x - inside if drop else inside) + constant).view_as(old).to(old)

        return Apply(function=put, **site)

    def _expect(self, rank: int) -> None:
        if not 0 <= rank <= self.full:
            raise OutOfRange(f"rank {rank}: {self.matrix!r} of layer {self.layer} has ranks 0 to {self.full}")


@checked
def accuracy(target: Target, *, pos: Position = -1) -> Metric:
    """Whether the target is the most probable token: 1 or 0, so that the mean over prompts is the accuracy.

    Parameters
    ----------
    target
        A token's id or text, or one per prompt.
    pos
        The position whose next-token prediction is read; the last by default.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> run = model.run("the cat and the")
    >>> accuracy(int(run.logits[0, -1].argmax()))(run).tolist()
    [1.0]
    """

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        ids = target_ids(target, tokens, tokenizer, d_vocab)

        def value(x: Tensor, rows: Tensor) -> Tensor:
            x = at_least_float32(x)
            return (x.argmax(-1) == ids.to(x.device)[rows]).to(x.dtype)

        return Bound(tokens.column(pos), None, value)

    return Metric("accuracy", bind, target, pos=pos)


@technique(
    role="component effect",
    entry=("4.3.11",),
    citation="Sharma et al. 2024",
    cost="layers x matrices SVDs + a sweep of all ranks",
)
def laser(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    layers: Sequence[int] | None = None,
    matrices: Sequence[str] = ("in", "out"),
    rho: Sequence[float] = RHO,
    seed: int = 0,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.Dataset:
    """Search for the weight whose low-rank approximation serves a task best, one weight at a time.

    Parameters
    ----------
    model
        The model. It is not changed: every approximation is an edit (``LowRank.edit``).
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is what is to be large;
        ``accuracy(targets)`` is one, too.
    layers
        Which layers; all by default.
    matrices
        Some of ``"in"``, ``"gate"``, ``"out"`` and ``"o"``.
    rho
        Shares of the full rank to keep, from 0 to 1; a rank is rounded down, but to 1 at least unless the share is 0.
    seed
        Same seed, same result. It draws the half of the prompts that judges the choice made by the other.
    token_budget, progress, checkpoint
        As for ``Model.sweep``.

    Returns
    -------
    xr.Dataset
        ``value`` (layer, component, rank, batch), the metric with that weight approximated, ``component`` being the
        matrix and ``rank`` the share; ``kept`` and ``lost`` (layer, component, rank), the rank and the share of the
        squared norm that is lost; ``clean`` (batch), the unedited model's. The attributes ``best_layer``,
        ``best_matrix`` and ``best_rho`` are of the best mean. A best of many is flattered by chance: with two prompts
        or more, what a random half of them would choose is judged on the rest, ``held_out`` against
        ``held_out_clean``.

    Raises
    ------
    CasebackError
        For an unknown matrix or a mixture of experts.
    UnknownSite
        For a layer that is not there.
    OutOfRange
        For a share outside 0 to 1, or no layers or matrices.
    SiteAbsent
        For a weight that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 4)
    >>> searched = laser(model, ioi.clean, ioi.metric, layers=[0, 3], rho=[1.0, 0.2])
    >>> searched["value"].dims, float(abs(searched["value"].sel(rank=1.0) - searched["clean"]).max()) < 1e-3
    (('layer', 'component', 'rank', 'batch'), True)
    """
    tokens = model.tokens(tokens)
    shares = [float(share) for share in rho]
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise OutOfRange(f"rho={list(rho)}: expected shares of the full rank, each from 0 to 1")
    chosen = [model.anatomy.layer(i) for i in (range(model.n_layers) if layers is None else layers)]
    if not chosen or not matrices:
        raise OutOfRange(f"layers={chosen} and matrices={list(matrices)}: expected at least one of each")
    edits, kept_ranks, lost = [], [], []
    for layer in chosen:
        for matrix in matrices:
            weight = LowRank(model, matrix, layer)
            ranks = [max(int(share * weight.full + 1e-9), int(share > 0)) for share in shares]
            edits += [weight.edit(rank) for rank in ranks]
            kept_ranks += ranks
            lost += [weight.lost(rank) for rank in ranks]
    swept = model.sweep(
        tokens,
        edits,
        metric,
        labels=[str(i) for i in range(len(edits))],
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    shape = (len(chosen), len(matrices), len(shares))
    values, clean = swept.values.reshape(*shape, -1), swept["clean"].values
    dims, coords = ["layer", "component", "rank"], {"layer": chosen, "component": list(matrices), "rank": shares}
    at = [int(i) for i in np.unravel_index(int(values.mean(-1).argmax()), shape)]
    attrs: dict[str, Any] = {
        **{"technique": laser, "model": model, "metric": metric.name},
        **{"best_layer": chosen[at[0]], "best_matrix": matrices[at[1]], "best_rho": shares[at[2]]},
        **_held_out(values, clean, seed),
    }
    variables = {
        "value": labelled(values, [*dims, "batch"], coords, name="value", **attrs),
        "kept": labelled(np.reshape(kept_ranks, shape), dims, coords, name="kept", **attrs),
        "lost": labelled(np.reshape(lost, shape), dims, coords, name="lost", **attrs),
        "clean": labelled(clean, ["batch"], name="clean", **attrs),
    }
    return xr.Dataset(variables, attrs=variables["value"].attrs)


def _held_out(values: np.ndarray, clean: np.ndarray, seed: int) -> dict[str, float]:
    """What the approximation that is best on half of the prompts gives on the rest."""
    if len(clean) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(len(clean))
    chosen_by, judged_on = np.array_split(order, 2)
    best = np.unravel_index(int(values[..., chosen_by].mean(-1).argmax()), values.shape[:3])
    return {
        "held_out": float(values[best][judged_on].mean()),
        "held_out_clean": float(clean[judged_on].mean()),
        "seed": seed,
    }
