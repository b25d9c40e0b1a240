"""Where a model looks while it answers: at the constraint that the answer has to meet, at the context, at itself.

    SAT        s_lh = max_{j in subject} a_lh(last, j)       of the last token; or of |a_lh(last, j) v_j W_O|
    lookback   r_lh = mean over new tokens of  c / (c + n)   c, n: mean attention to a context and to a new token

A head that rests on the first token has a lookback ratio near 1 whatever it reads; ``sink_free`` leaves that token out.
(Yuksekgonul et al. 2024; Chuang et al. 2024)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.truth.batches import Marked, Reading, marked, read_all
from caseback.errors import CasebackError, did_you_mean
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

REDUCTIONS = ("max", "sum")


@technique(entry=("5.4.20",), citation="Yuksekgonul et al. 2024", cost="one forward")
def constraint_attention(
    model: Model,
    tokens: PromptsLike,
    subject: Sequence[Sequence[int]],
    *,
    reduce: Literal["max", "sum"] = "max",
    progress: bool = False,
) -> xr.DataArray:
    """Measure how much each head's last token attends to the constraint: to the subject that is asked about.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    subject
        The positions of the constraint's tokens in each prompt.
    reduce
        Over these tokens: ``"max"`` as in the authors' code, or ``"sum"``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, layer, head), between 0 and 1: the features of the SAT probe.

    Raises
    ------
    OutOfRange, CasebackError
        For positions that a prompt does not have, and subjects that are missing or empty.

    Notes
    -----
    Entry 5.4.20: Yuksekgonul et al. 2024, "Attention Satisfies". Heads that share keys have a row each. Layers with
    fewer heads than others have NaN for those that they lack.

    Examples
    --------
    >>> import caseback as cb
    >>> looks = constraint_attention(cb.load("meadow"), ["The capital of Italy is"], [[3]])
    >>> looks.dims, bool((looks <= 1).all())
    (('batch', 'layer', 'head'), True)
    """
    if reduce not in REDUCTIONS:
        raise CasebackError(f"reduce={reduce!r} is unknown. {did_you_mean(str(reduce), REDUCTIONS)}")
    given = marked(model, model.tokens(tokens), subject)
    values = read_all(model, given, {"looks": constraint_reading(model, reduce)}, progress=progress)["looks"]
    return labelled(
        values,
        ["batch", "layer", "head"],
        name="attention",
        technique=constraint_attention,
        model=model,
        reduce=reduce,
    )


@technique(entry=("5.4.20",), citation="Chuang et al. 2024", cost="one forward")
def lookback_ratio(
    model: Model,
    tokens: PromptsLike,
    start: int | Sequence[int],
    *,
    sink_free: bool = False,
    progress: bool = False,
) -> xr.DataArray:
    """Measure how much each head looks back at the context, and how much at what was generated.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Each is a context with what was generated.
    start
        The position of the first generated token, one for all texts or one for each.
    sink_free
        Leave the first token, where many heads rest, out of the context.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, layer, head), between 0 and 1: the mean over generated tokens of the mean attention to a context token,
        of that and the mean attention to a generated token (the token itself included).

    Raises
    ------
    OutOfRange
        For a start that a text does not have, and for ``sink_free`` one before which only the first token stands.

    Notes
    -----
    Entry 5.4.20: Chuang et al. 2024, "Lookback Lens", with the first token in the context as in the authors' code
    unless ``sink_free``.

    Examples
    --------
    >>> import caseback as cb
    >>> ratio = lookback_ratio(cb.load("meadow"), "The capital of Italy is Rome", -1)
    >>> ratio.dims, bool(((ratio >= 0) & (ratio <= 1)).all())
    (('batch', 'layer', 'head'), True)
    """
    given = marked(model, model.tokens(tokens), start=start)
    expect_context(given, sink_free)
    values = read_all(model, given, {"ratio": lookback_reading(model, sink_free)}, progress=progress)["ratio"]
    return labelled(
        values,
        ["batch", "layer", "head"],
        name="lookback",
        technique=lookback_ratio,
        model=model,
        sink_free=sink_free,
    )


def expect_context(given: Marked, sink_free: bool) -> None:
    """Refuse texts of which nothing is left to look back at.

    Raises
    ------
    CasebackError
    """
    if sink_free and bool((given.start < 2).any()):
        row = int((given.start < 2).int().argmax())
        raise CasebackError(f"text {row} has one token of context, the first: expected more with sink_free=True")


def patterns(model: Model) -> list[Site]:
    """The attention of every layer that has any."""
    return list(model.anatomy.sites("pattern"))


def _by_layer(values: list[Tensor]) -> Float[Tensor, "batch layer head"]:
    """Heads by layer, NaN where a layer has fewer than others."""
    most = max(x.shape[1] for x in values)
    return torch.stack([torch.nn.functional.pad(x, (0, most - x.shape[1]), value=torch.nan) for x in values], 1)


def constraint_reading(model: Model, reduce: str = "max") -> Reading:
    """What ``constraint_attention`` takes of a run."""
    sites = patterns(model)

    def of(run: Run, given: Marked) -> Tensor:
        own = []
        for site in sites:
            rows = widened(run[site][given.row, :, given.last]) * given.subject[:, None]
            own.append(rows.amax(-1) if reduce == "max" else rows.sum(-1))
        return _by_layer(own)

    return Reading(sites, of)


def lookback_reading(model: Model, sink_free: bool = False) -> Reading:
    """What ``lookback_ratio`` takes of a run."""
    sites = patterns(model)

    def of(run: Run, given: Marked) -> Tensor:
        new = given.new
        context = given.tokens.mask & ~new
        if sink_free:
            context = context.clone()
            context[:, 0] = False
        own = []
        for site in sites:
            a = widened(run[site])
            count = widened(new).cumsum(-1).clamp_min(1)  # generated tokens up to each query, itself included
            back = torch.einsum("bhqk,bk->bhq", a, widened(context)) / context.sum(-1)[:, None, None]
            ahead = torch.einsum("bhqk,bk->bhq", a, widened(new)) / count[:, None]
            ratio = back / (back + ahead).clamp_min(torch.finfo(a.dtype).tiny)
            own.append((ratio * new[:, None]).sum(-1) / new.sum(-1)[:, None])
        return _by_layer(own)

    return Reading(sites, of)
