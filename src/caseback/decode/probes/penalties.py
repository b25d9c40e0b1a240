"""Which penalty a linear probe has at each site: of those that are tried, the one that held-out rows like best.

    penalty = argmin_p  sum over inner folds of  mean -log p(y | x) of the probe with penalty p on the other folds

All sites are fitted together at each penalty, from the strongest on, each from where the one before ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.probes.closed_forms import Fit, fit_lda, fit_mass_mean, fit_ridge
from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.standard import Standard
from caseback.errors import OutOfRange

Method = Literal["logistic", "ridge", "mass_mean", "lda"]
PENALTIES: dict[str, tuple[float, ...]] = {
    "logistic": (1e-1, 1e-2, 1e-3, 1e-4),
    "ridge": (1e1, 1.0, 1e-1, 1e-2),
    "mass_mean": (0.0,),
    "lda": (0.9, 0.5, 0.1, 0.01),
}
"""What is tried for each method; the strongest comes first, so that the next begins where it ended."""
LOG_ODDS = ("logistic", "lda")
"""Methods whose scores are log odds; those of the others order classes and say no more."""


def expect_penalty(penalty: float | None) -> None:
    """Refuse what is no penalty."""
    if penalty is not None and not 0 <= penalty <= 1e30:
        raise OutOfRange(f"penalty {penalty}: expected 0 or a positive number, up to 1e30")


def fit(standard: Standard, y: Tensor, n_classes: int, method: str, penalty: Tensor, start: Fit | None = None) -> Fit:
    """A probe of one method at each site, of standardized features."""
    if method == "logistic":
        return fit_logistic(standard, y, n_classes, l2=penalty, start=start)
    closed: dict[str, Callable[..., Fit]] = {"ridge": fit_ridge, "mass_mean": fit_mass_mean, "lda": fit_lda}
    return closed[method](standard, y, n_classes, penalty)


def scores_of_classes(z: Float[Tensor, "site example k"]) -> Float[Tensor, "site example class"]:
    """Scores of all classes, the first of two being 0."""
    return torch.cat([torch.zeros_like(z), z], -1) if z.shape[-1] == 1 else z


def best_penalty(
    x: Float[Tensor, "site example d"],
    y: Int[Tensor, " example"],
    n_classes: int,
    method: str,
    inner: list[np.ndarray],
    penalty: float | None = None,
) -> Float[Tensor, " site"]:
    """The penalty of the least surprise on inner folds, site by site; ``penalty`` where it is given."""
    tried = PENALTIES[method] if penalty is None else (penalty,)
    if len(tried) == 1:
        return x.new_full((len(x),), tried[0])
    surprise = torch.zeros(len(tried), len(x), dtype=torch.float64, device=x.device)
    for fold in inner:
        held = torch.zeros(len(y), dtype=torch.bool, device=x.device)
        held[torch.from_numpy(fold).to(x.device)] = True
        standard, start = Standard.of(x[:, ~held], in_place=True), None
        for i, value in enumerate(tried):
            start = fit(standard, y[~held], n_classes, method, x.new_full((len(x),), value), start)
            own, bias = standard.folded(*start)
            log_p = scores_of_classes(x[:, held] @ own + bias[:, None]).log_softmax(-1)
            if method == "ridge":  # its scores are no log odds
                surprise[i] -= (log_p.argmax(-1) == y[held]).double().mean(1)
            else:
                surprise[i] -= log_p.gather(-1, y[held].expand(len(x), -1)[..., None]).double().mean((1, 2))
    return torch.tensor(tried, dtype=x.dtype, device=x.device)[surprise.argmin(0)]


def out_of_fold(
    x: Float[Tensor, "site example d"],
    y: Int[Tensor, " example"],
    n_classes: int,
    method: str,
    penalty: Float[Tensor, " site"],
    inner: list[np.ndarray],
) -> Float[Tensor, "site example class"]:
    """Each example's scores by the probe that was fitted without its fold."""
    scores = x.new_zeros(*x.shape[:2], n_classes)
    for fold in inner:
        held = torch.zeros(len(y), dtype=torch.bool, device=x.device)
        held[torch.from_numpy(fold).to(x.device)] = True
        standard = Standard.of(x[:, ~held], in_place=True)
        own, bias = standard.folded(*fit(standard, y[~held], n_classes, method, penalty))
        scores[:, held] = scores_of_classes(x[:, held] @ own + bias[:, None])
    return scores
