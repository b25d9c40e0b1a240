"""One score for a text from scores of its tokens: their mean, their largest, or the last one's."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.arguments import checked


@checked
def aggregate(
    scores: Tensor, *, mask: Tensor | None = None, how: Literal["mean", "max", "last"] = "mean"
) -> Float[Tensor, "*batch"]:
    """Scores of texts from those of their tokens.

    Parameters
    ----------
    scores
        (..., pos): a linear probe's score of each token.
    mask
        (..., pos), which tokens count, such as those that are no padding and not the first; by default all.
    how
        Their ``"mean"``, their largest (``"max"``), or the ``"last"`` one's.

    Returns
    -------
    Tensor
        (...), one number a text.

    Raises
    ------
    CasebackError
        For a mask of another shape, or one that leaves a text without tokens.

    Examples
    --------
    >>> scores, mask = torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[True, True, False]])
    >>> [aggregate(scores, mask=mask, how=how).item() for how in ("mean", "max", "last")]
    [3.0, 5.0, 5.0]
    """
    if not scores.ndim or not scores.is_floating_point():
        raise CasebackError(f"scores of shape {tuple(scores.shape)} and {scores.dtype}: expected fractions (..., pos)")
    counted = token_mask(mask, tuple(scores.shape[-1:]) if mask is None else tuple(mask.shape), scores.device)
    try:
        counted = counted.expand(scores.shape)
    except RuntimeError:
        raise CasebackError(f"mask of shape {tuple(counted.shape)}: expected that of {tuple(scores.shape)}") from None
    if how == "mean":
        return scores.masked_fill(~counted, 0).sum(-1) / counted.sum(-1)
    if how == "max":
        return scores.masked_fill(~counted, -torch.inf).amax(-1)
    return scores.gather(-1, last_place(counted)[..., None])[..., 0]


def last_place(mask: Bool[Tensor, "*batch pos"]) -> Tensor:
    """The last position that counts."""
    return (mask * torch.arange(mask.shape[-1], device=mask.device)).argmax(-1)


def token_mask(mask: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Bool[Tensor, "*batch pos"]:
    """Which tokens count, of a mask of truth values or of 0 and 1; all where there is none."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if tuple(mask.shape) != shape:
        raise CasebackError(f"mask of shape {tuple(mask.shape)}: expected {shape}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise CasebackError("mask holds other numbers than 0 and 1: expected which tokens count")
    counted = mask.to(device).bool()
    if not bool(counted.any(-1).all()):
        raise CasebackError(f"mask leaves no token of text {int((~counted.any(-1)).flatten().nonzero()[0, 0])}")
    return counted
