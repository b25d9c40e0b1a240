"""RAVEL: does a subspace hold one attribute of an entity and leave its other attributes alone (PRIMER 3.2.36)?

    cause       share of "the attribute of b?" answered as for s, after b's subspace took s's value
    isolation   for every other attribute, the share of "the other attribute of b?" still answered as for b; its mean
    disentangle (cause + isolation) / 2

Swapping nothing isolates perfectly and causes nothing, swapping everything the reverse: either way a half. A search
that wants both is ``das`` on ``cause + isolation`` examples (multi-task DAS).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr

from caseback.errors import CasebackError
from caseback.localize.abstraction.accuracy import prediction, swaps
from caseback.localize.abstraction.alignment import Alignment, alignment_as_text, seats
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.sweeping.sweep import sweep


@technique(
    role="judgement",
    entry=("3.2.36",),
    citation="Huang et al. 2024",
    cost="2 forwards + the forward from the place on, for each attribute",
)
def ravel(
    model: Model,
    cause: Interchanges,
    isolation: Interchanges | Mapping[str, Interchanges],
    alignment: Alignment,
    *,
    known: bool = False,
    among: Sequence[str | int] | None = None,
    batch_size: int | None = None,
) -> xr.DataArray:
    """Score a place, or a subspace of it, by cause and isolation.

    Parameters
    ----------
    model
        The model.
    cause
        Examples in which the attribute is asked for; the target is the source's.
    isolation
        Examples in which another attribute is asked for, whose target is the base's own; several attributes by name.
    alignment
        Where the attribute lies.
    known
        Count only examples whose base the model answers right when nothing is swapped, as the benchmark does.
    among, batch_size
        As for ``interchange_accuracy``.

    Returns
    -------
    xr.DataArray
        (variant): ``cause``, then each attribute that is to be left alone, with the number of examples as ``count``.
        Attributes: ``cause``, ``isolation`` (the mean over attributes) and ``disentangle``.

    Raises
    ------
    CasebackError
        For isolation examples whose target is not the base's own answer, cause examples where it always is, an
        attribute called "cause", or ``known`` where the model answers no base correctly.

    Examples
    --------
    >>> from caseback.localize.abstraction import At, CausalModel
    >>> from caseback.organisms.compiled import build
    >>> look = build("saturated_query")
    >>> bit = CausalModel({"a": "01", "b": "01"}, {"first": ("a", str), "second": ("b", str)}, "first")
    >>> other = CausalModel(bit.inputs, bit.mechanisms, "second")
    >>> asked = lambda end: lambda v: f"{v['a']} {v['b']} {end}"
    >>> cause = Interchanges.sample(look.model, bit, asked("first"), "a", 20, changing=0.5)
    >>> stay = Interchanges.sample(look.model, other, asked("second"), "a", 20)
    >>> score = ravel(look.model, cause, {"second": stay}, {"a": At("resid_pre", layer=0, pos=1)})
    >>> score.attrs["cause"], score.attrs["isolation"], score.attrs["disentangle"]
    (1.0, 1.0, 1.0)
    """
    others = {"isolation": isolation} if isinstance(isolation, Interchanges) else dict(isolation)
    if not others or "cause" in others:
        raise CasebackError("isolation needs attributes by name, none of them called 'cause'")
    if not bool(cause.changes.any()):
        raise CasebackError("no cause example changes the answer: take sources whose attribute differs from the base's")
    for name, data in others.items():
        if bool(data.changes.any()):
            raise CasebackError(
                f"isolation example {int(data.changes.int().argmax())} of {name!r} has another target than its base's "
                "answer: what is asked for there must not depend on what is swapped"
            )
    scores: list[float] = []
    counts: list[int] = []
    for name, data in {"cause": cause, **others}.items():
        seated = seats(model, data, alignment, batch_size=batch_size)
        answers, own, *_ = sweep(model.anatomy, data.base, [swaps(seated)], prediction(data.pos, among))
        target = data.target.cpu()
        counted = own.cpu() == data.base_target.cpu() if known else torch.ones(len(data), dtype=torch.bool)
        if not bool(counted.any()):
            raise CasebackError(f"the model answers no base of {name!r} right: leave out known=True, or ask otherwise")
        scores.append(float((answers[0].cpu() == target)[counted].double().mean()))
        counts.append(int(counted.sum()))
    apart = sum(scores[1:]) / len(others)
    summary: dict[str, Any] = {"cause": scores[0], "isolation": apart, "disentangle": (scores[0] + apart) / 2}
    return labelled(
        scores,
        ["variant"],
        {"variant": ["cause", *others], "count": ("variant", counts)},
        name="score",
        technique=ravel,
        model=model,
        alignment=alignment_as_text(alignment),
        known=known,
        **summary,
    )
