"""Composition scores (PRIMER 2.8): how much of what one head writes a later head's query, key or value reads.

    V: |OV_1 OV_2|     K: |OV_1 QK_2^T|     Q: |OV_1 QK_2|     (Frobenius), divided by the product of both norms

A head's OV = A B with A = W_V, B = W_O. With A = (orthonormal) R_A, its norm is that of P = R_A B, d_head x d_model,
and likewise what a read A' B' takes in is S = A' R_B'^T with B'^T = (orthonormal) R_B'. So each score is
|P S| / (|P| |S|), a product through d_head: all pairs of heads of two layers are one matrix product.
"""

from __future__ import annotations

from typing import Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

Kind = Literal["Q", "K", "V"]
Writes = Float[Tensor, "head d_head d_model"]
Reads = Float[Tensor, "head d_model d_head"]


@technique(
    role="decomposition",
    entry=("2.8",),
    citation="Elhage et al. 2021",
    cost="weights only: layers^2 / 2 products of d_model^3",
)
def composition(
    model: Model,
    kind: Kind = "K",
    *,
    folded: bool = True,
    baseline: Literal["random"] | None = "random",
    samples: int = 100,
    seed: int = 0,
) -> xr.DataArray:
    """Q-, K- or V-composition of all pairs of heads, from the weights alone.

    Parameters
    ----------
    model
        The model.
    kind
        Whether the later head's query, key or value reads the earlier one's write.
    folded
        Fold norms into the matrices, since what a head reads has been through its norm. In a family with rotary
        embeddings, QK is the part at distance 0.
    baseline
        ``"random"`` subtracts the mean score of Gaussian matrices of the same shapes (about 1/sqrt(d_model)), as the
        paper does; None leaves scores as they are, from 0 to 1.
    samples
        How many random pairs the baseline is the mean of.
    seed
        Same seed, same result. Draws the baseline's pairs.

    Returns
    -------
    xr.DataArray
        (layer, head, layer_to, head_to), NaN where ``layer_to`` is not after ``layer``. The attributes
        ``baseline_mean`` and ``baseline_std`` are the baseline and its standard deviation.

    Raises
    ------
    CasebackError
        For an unknown kind or baseline, or layers that differ in their number of heads.
    SiteAbsent
        For latent attention, where heads have no matrices of their own.

    Examples
    --------
    ::

        scores = composition(model, "K")
        scores.stack(pair=scores.dims).dropna("pair").to_series().nlargest(5)   # previous-token -> induction
    """
    if kind not in ("Q", "K", "V") or baseline not in ("random", None):
        raise CasebackError(f"kind={kind!r}, baseline={baseline!r}: expected Q, K or V, and 'random' or None")
    if samples < 1:
        raise OutOfRange(f"samples={samples}: expected at least 1")
    heads = {p.dims.n_heads for p in model.anatomy.layers}
    if len(heads) > 1:
        raise CasebackError(f"layers of this model have {sorted(heads)} heads: their scores make no table")
    expect_in_weights(model.anatomy, "what is said of weights alone")
    weights = Weights(model.anatomy).folded() if folded else Weights(model.anatomy)
    writes = [write_side(ov) for ov in weights.OV]
    reads = [read_side(_circuit(weights, layer, kind)) for layer in range(model.n_layers)]
    n_layers, n_heads = model.n_layers, model.n_heads
    scores = torch.full((n_layers, n_heads, n_layers, n_heads), torch.nan, dtype=writes[0].dtype)
    for i in range(n_layers):
        for j in range(i + 1, n_layers):
            scores[i, :, j] = overlap(writes[i], reads[j]).cpu()
    baseline_attrs: dict[str, float | int] = {}
    if baseline == "random":
        first = weights.OV[0], _circuit(weights, 0, kind)
        drawn = random_scores(*first, samples, seed)
        scores -= drawn.mean()
        baseline_attrs = {
            "baseline_mean": float(drawn.mean()),
            "baseline_std": float(drawn.std()),
            "samples": samples,
            "seed": seed,
        }
    layers, names = range(n_layers), range(n_heads)
    return labelled(
        scores,
        ["layer", "head", "layer_to", "head_to"],
        {"layer": layers, "head": names, "layer_to": layers, "head_to": names},
        name=f"{kind}_composition",
        technique=composition,
        model=model,
        kind=kind,
        folded=folded,
        baseline=baseline,
        **baseline_attrs,
    )


def _circuit(weights: Weights, layer: int, kind: Kind) -> Factored:
    """What the later head does with its read, as (read) @ circuit."""
    if kind == "V":
        return weights.OV[layer]
    return weights.QK[layer] if kind == "Q" else weights.QK[layer].T


def write_side(circuit: Factored) -> Writes:
    """P with |P X| = |circuit X| for every X."""
    return torch.linalg.qr(at_least_float32(circuit.left), mode="r").R @ at_least_float32(circuit.right)


def read_side(circuit: Factored) -> Reads:
    """S with |X S| = |X circuit| for every X."""
    return write_side(circuit.T).mT


def overlap(writes: Writes, reads: Reads) -> Float[Tensor, "head head_to"]:
    """|P S| / (|P| |S|) for every pair; 0 for a head that writes or reads nothing."""
    products = writes.flatten(0, 1) @ reads.transpose(0, 1).flatten(1)
    products = products.unflatten(0, (len(writes), -1)).unflatten(2, (len(reads), -1)).pow(2).sum((1, 3)).sqrt()
    sizes = writes.flatten(1).norm(dim=1)[:, None] * reads.flatten(1).norm(dim=1)
    return torch.where(sizes > 0, products / sizes, 0.0)


def random_scores(ov: Factored, circuit: Factored, samples: int, seed: int) -> Float[Tensor, " sample"]:
    """Scores of pairs of circuits that are Gaussian matrices of the same shapes as these."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: Factored) -> Factored:
        shapes = ((samples, *factor.shape[-2:]) for factor in (like.left, like.right))
        return Factored(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes))

    writes, reads = write_side(drawn(ov)), read_side(drawn(circuit))
    sizes = writes.flatten(1).norm(dim=1) * reads.flatten(1).norm(dim=1)
    return (writes @ reads).flatten(1).norm(dim=1) / sizes
