"""How the stream grows (5.3.3), and what is taken out of it again (5.3.4).

growth     exp of the slope of E log |x| over layers, with rows' first tokens and without;  of |W_O|, |W_out| too
erasure    by layer the share of neurons with cos(w_in, w_out) < -1/2, and of heads
sum of Re lambda / sum of |lambda| over the eigenvalues of W_V W_O: -1 takes out, 1 adds, what it reads
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.stream.fact import Numbers
from caseback.errors import CasebackError, SiteAbsent
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.stream.tables.residual import LATER


def moments(evidence: Evidence) -> list[xr.Dataset]:
    """The stream's moments, one a half of the text.

    Raises
    ------
    CasebackError
        Where rows are so short that nothing stands past their first tokens.
    """
    tables = evidence.folds(TEXT, "stream_moments")
    if not all(float(table["later_n"]) for table in tables):
        raise CasebackError(f"no row of a half of the text has more than {LATER} tokens: choose longer rows")
    return tables


def growth(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Mean log |x| by layer and its growth a layer; beside it the growth of the matrices that write, and that read."""
    tables = moments(evidence)
    values: dict[str, float | list[float]] = {}
    for prefix, words in (("", "all tokens"), ("later_", "without first tokens")):
        logs = np.mean([table[f"{prefix}log_norm"].values for table in tables], 0)
        values[f"mean log norm, {words}"] = logs.tolist()
        values[f"growth a layer, {words}"] = float(np.exp(slope(logs)))
    control: dict[str, float] = {}
    for into, names in ((values, ("W_O", "W_out")), (control, ("W_Q", "W_K", "W_V", "W_in"))):
        for name in names:
            sizes = weight_sizes(evidence, name)
            if len(sizes) > 1:
                into[f"growth of {name}"] = float(np.exp(slope(np.log(sizes))))
    return values, control


def weight_sizes(evidence: Evidence, name: str) -> np.ndarray:
    """The Frobenius norm of a matrix in every layer; nothing where some layer has none.

    Raises
    ------
    EditError
        For a model under edits inside layers that are in no weight.
    """
    expect_in_weights(evidence.model.anatomy, "the size of weights")
    try:
        every = getattr(evidence.model.weights, name)
        sizes = np.array([float(at_least_float32(one).norm()) for one in every])
    except SiteAbsent:
        return np.zeros(0)
    return sizes[sizes > 0]


def slope(y: np.ndarray) -> float:
    """The least-squares slope over 0, 1, 2 ...

    Examples
    --------
    >>> slope(np.array([1.0, 3.0, 5.0]))
    2.0
    """
    x = np.arange(len(y)) - (len(y) - 1) / 2
    return float(x @ y / (x @ x)) if len(y) > 1 else 0.0


@torch.no_grad()
def erasure(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Shares of erasing neurons, and signs of heads' eigenvalues, by layer; of random matrices.

    Raises
    ------
    SiteAbsent
        For a model with neither.
    """
    expect_in_weights(evidence.model.anatomy, "what weights take out")
    folded, draw = evidence.folded, torch.Generator().manual_seed(evidence.seed)
    values: dict[str, list[float]] = {}
    control: dict[str, list[float]] = {}
    for layer in evidence.neuron_layers:
        read, write = folded.W_in[layer].T, folded.W_out[layer]
        for into, rows in ((values, write), (control, _like(write, draw))):
            cosine = torch.nn.functional.cosine_similarity(read, rows, dim=1)
            into.setdefault("share of erasing neurons", []).append(float(in_float64(cosine < -0.5).mean()))
    try:
        for layer in range(evidence.model.n_layers):
            w_o, w_v = folded.W_O[layer], folded.W_V.per_head[layer]
            for into, writes in ((values, w_o), (control, _like(w_o, draw))):
                into.setdefault("sign of heads' eigenvalues", []).append(float(eigenvalue_sign(w_v, writes).mean()))
    except SiteAbsent:
        if not values:
            raise
    return values, control


def eigenvalue_sign(w_v: Tensor, w_o: Tensor) -> Tensor:
    """(head), sum of Re lambda / sum of |lambda| of W_V W_O, whose eigenvalues other than 0 are those of W_O W_V.

    Examples
    --------
    >>> eigenvalue_sign(torch.eye(4)[None, :, :2], -torch.eye(4)[None, :2]).tolist()
    [-1.0]
    """
    values = torch.linalg.eigvals((w_o @ w_v).cpu().double())
    return (values.real.sum(1) / values.abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny)).float()


def _like(x: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=draw, dtype=x.dtype).to(x.device)
