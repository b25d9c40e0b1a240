"""Dimensions and tokens that stand out: anisotropy, rogue dimensions (5.3.6), massive activations (5.1.12), and what
the unembedding hardly reads (5.1.11).

    anisotropy  A = E cos(x_i, x_j) over pairs of tokens = (n |u|^2 - 1) / (n - 1),    u = E x / |x|;  of which u_k^2
    rogue       |mean_k| more than 3 deviations of all dimensions' means from their mean
    massive     max |x_k| > 100 and 1000 times the median size;  or 50 times the 999th thousandth in 3 layers or more
    dark        share of |m|^2 in the lowest twentieth of W_U's singular directions,   m the mean stream
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.neurons.unembedding import squares
from caseback.behaviors.stream.fact import Numbers
from caseback.behaviors.stream.norms import moments
from caseback.errors import CasebackError

WAYS = (("", "all tokens"), ("later_", "without first tokens"))
TOP = 3
BANDS = 20


def anisotropy(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Mean cosines by layer, with all dimensions and without those that give most; of as many in another basis.

    Raises
    ------
    CasebackError
        For fewer than two tokens.
    """
    values: dict[str, list[float]] = {}
    control: dict[str, list[float]] = {}
    tables = moments(evidence)
    for prefix, words in WAYS:
        n, unit = _mean(tables, prefix, "cosine")
        if n < 2:
            raise CasebackError(f"{n:.0f} tokens {words}: a mean cosine is of pairs")
        values[words] = ((n * (unit**2).sum(1) - 1) / (n - 1)).tolist()
        turned = _in_another_basis(unit, evidence.seed)
        for into, x in ((values, unit), (control, turned)):
            shares = np.sort(x**2, 1)[:, ::-1]
            for top in (1, TOP):
                into[f"{words}, share of the top {top}"] = (
                    shares[:, :top].sum(1) / np.maximum(shares.sum(1), 1e-300)
                ).tolist()
    return values, control


def rogue_dimensions(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """How many dimensions have outlying means by layer, and those that have in a quarter of the layers."""
    _, mean = _mean(moments(evidence), "later_", "mean")
    turned = _in_another_basis(mean, evidence.seed)
    values, control = ({"dimensions by layer": _outlying(x).sum(1).astype(float).tolist()} for x in (mean, turned))
    for into, x in ((values, mean), (control, turned)):
        into["dimensions in a quarter of the layers"] = _often(x).astype(float).tolist()
    return values, control


def often_rogue(evidence: Evidence) -> np.ndarray:
    """The dimensions that are rogue in a quarter of the layers."""
    return _often(_mean(moments(evidence), "later_", "mean")[1])


def _often(mean: np.ndarray) -> np.ndarray:
    return np.nonzero(_outlying(mean).mean(0) >= 0.25)[0]


def massive_activations(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Each layer's largest number, where it is, and how far it stands out; at rows' first tokens and at others."""
    tables = moments(evidence)
    values: dict[str, list[float]] = {}
    median = np.max([table["median_size"].values for table in tables], 0)
    far = np.max([table["size_999"].values for table in tables], 0)
    control: dict[str, list[float]] = {}
    for prefix, words in WAYS:
        largest = np.max([table[f"{prefix}largest"].values for table in tables], 0)
        top, at = largest.max(1), largest.argmax(1)
        values[f"largest, {words}"] = top.tolist()
        values[f"its dimension, {words}"] = at.astype(float).tolist()
        values[f"over the median, {words}"] = (top / median).tolist()
        values[f"massive dimensions, {words}"] = massive(largest, median, far).astype(float).tolist()
        control[f"over the median, {words}"] = (np.median(largest, 1) / median).tolist()
    return values, control


def massive(largest: np.ndarray, median: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The dimensions that hold massive activations in some layer, or standing out in three.

    Examples
    --------
    >>> sizes = np.ones((3, 4))
    >>> sizes[:, 2] = 60
    >>> massive(sizes, np.ones(3), np.ones(3)).tolist()
    [2]
    """
    published = (largest > 100) & (largest > 1000 * median[:, None])
    persistent = (largest > 50 * far[:, None]).sum(0) >= 3
    return np.nonzero(published.any(0) | persistent)[0]


def dark_bands(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Shares of the mean stream that the unembedding hardly reads, by layer, at first tokens and others; of chance."""
    tables = moments(evidence)
    folded = evidence.folded
    low = darkest(evidence).cpu().numpy()
    d, k = low.shape
    n, every = _mean(tables, "", "mean")
    later_n, later = _mean(tables, "later_", "mean")
    first = (n * every - np.nan_to_num(later_n * later)) / max(n - later_n, 1)
    values = {}
    for words, x in (("first tokens", first), ("without first tokens", later)):
        x = x - x.mean(1, keepdims=True) if folded.centred else x
        values[words] = (((x @ low) ** 2).sum(1) / np.maximum((x**2).sum(1), 1e-300)).tolist()
    return values, {"a random direction": k / (d - folded.centred)}


def darkest(evidence: Evidence) -> Float[Tensor, "d_model k"]:
    """The twentieth of the stream's directions that the unembedding reads least."""
    product = squares(evidence.folded)
    if evidence.folded.centred:
        # no write has this direction; out of the way
        product = product + product.diagonal().max() * torch.ones_like(product)
    return torch.linalg.eigh(product).eigenvectors[:, : max(1, round(len(product) / BANDS))]


def _mean(tables: list[xr.Dataset], prefix: str, name: str) -> tuple[float, np.ndarray]:
    """How many tokens, and the mean over both halves of the text, (layer, d_model)."""
    n = [float(table["later_n"]) if prefix else float(table["mean"].attrs["n"]) for table in tables]
    parts = [m * table[f"{prefix}{name}"].values for m, table in zip(n, tables, strict=True) if m]
    return sum(n), sum(parts, np.zeros(())) / max(sum(n), 1)


def _outlying(mean: np.ndarray) -> np.ndarray:
    return np.abs(mean - mean.mean(1, keepdims=True)) > 3 * mean.std(1, keepdims=True)


def _in_another_basis(x: np.ndarray, seed: int) -> np.ndarray:
    """The same vectors after one random rotation."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1], x.shape[1])))
    return x @ turn
