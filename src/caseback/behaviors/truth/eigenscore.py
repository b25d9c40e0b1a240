"""How far several answers to one question are apart in the model's own states.

    paper      E = 1/K log det(Z^T J Z + a I)            Z (d, K): K answers' states,  J = I - 1 1^T / d
    released   E = 1/K sum_k log10 sigma_k(C + a I)      C = Z^T J Z / (d - 1), sigma its singular values

J takes each state's own mean away, so a shift of all its entries does not count. Answers that are all the same have one
eigenvalue and K - 1 times a: the score is low where a model is sure. (Chen C. et al. 2024)
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled

FORMS = ("paper", "released")


@technique(entry=("5.4.20",), citation="Chen C. et al. 2024", cost="the eigenvalues of a K x K matrix; no model is run")
def eigenscore(states: Any, *, alpha: float = 1e-3, form: Literal["paper", "released"] = "paper") -> xr.DataArray:
    """Measure how far several answers are apart, of each question by itself.

    Parameters
    ----------
    states
        (batch, k, d): of each question k answers' states; the paper's are the middle layer's at an answer's last token,
        as ``sample_answers`` reads them.
    alpha
        Added to each eigenvalue; 0.001 in the paper.
    form
        ``"paper"``: natural logarithm of the sum of products. ``"released"``: the authors' code, which divides by
        d - 1 and takes the logarithm to base 10.

    Returns
    -------
    xr.DataArray
        (batch,): low where answers are alike. Neither form clips features.

    Raises
    ------
    OutOfRange
        For fewer than two answers, and an ``alpha`` that is not positive.
    CasebackError
        For states of another shape, or that are not finite, and a form that is unknown.

    Notes
    -----
    Entry 5.4.20: Chen C. et al. 2024, "INSIDE". The paper's text clips features at fixed percentiles of others; the
    released code does not.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1, 10, 64, generator=draw, dtype=torch.float64)
    >>> same = x[:, :1].expand(-1, 10, -1)
    >>> [round(float(eigenscore(states)[0])) for states in (x, same)]
    [4, -6]
    """
    if form not in FORMS:
        raise CasebackError(f"form={form!r} is unknown. {did_you_mean(str(form), FORMS)}")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise OutOfRange(f"alpha is {alpha}: expected a positive number, such as 0.001")
    x = numbers_of(states, 3, "states", "(batch, k, d)")
    expect_samples(x.shape[1])
    values = _scores(x, alpha, form)
    return labelled(values, ["batch"], name="eigenscore", technique=eigenscore, alpha=float(alpha), form=form)


def expect_samples(k: int) -> None:
    """Refuse too few answers to be compared.

    Raises
    ------
    OutOfRange
    """
    if k < 2:
        raise OutOfRange(f"{k} answers to a question: expected 2 or more, which are compared with each other")


def numbers_of(values: Any, ndim: int, what: str, dims: str) -> Float[Tensor, "*dims"]:
    """Numbers of so many dimensions, in float64.

    Raises
    ------
    CasebackError
        For anything else, none at all, and numbers that are not finite.
    """
    try:
        x = values if isinstance(values, Tensor) else torch.as_tensor(values)
        shown = f"of shape {tuple(x.shape)} and {x.dtype}"
        fits = x.ndim == ndim and 0 not in x.shape and not x.is_complex() and x.layout == torch.strided
        fits = fits and x.dtype != torch.bool and not x.is_meta
    except (TypeError, ValueError, RuntimeError):
        x, fits, shown = torch.empty(0), False, f"a {type(values).__name__}"
    if not fits:
        raise CasebackError(f"{what} are {shown}: expected numbers {dims}")
    if not bool(x.isfinite().all()):
        raise CasebackError(f"{what} have numbers that are not finite: expected {dims}")
    return in_float64(x.detach())


def _scores(x: Float[Tensor, "batch k d"], alpha: float, form: str) -> Float[Tensor, " batch"]:
    centered = x - x.mean(-1, keepdim=True)
    product = centered @ centered.mT
    if form == "released":
        product = product / (x.shape[2] - 1)
    logs = (torch.linalg.eigvalsh(product).clamp_min(0) + alpha).log()
    return logs.mean(-1) / (math.log(10) if form == "released" else 1)
